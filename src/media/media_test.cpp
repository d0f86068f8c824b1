// Pictures and sound against the reference's own processors (goldens), and against what breaks them.
#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/file_io.h"
#include "base/test_paths.h"
#include "base/test_sha256.h"
#include "formats/safetensors.h"
#include "media/audio.h"
#include "media/av_input.h"
#include "media/resize.h"
#include "media/video.h"

namespace nibble {
namespace {
std::vector<std::byte> bytes_of(const std::string& name) {
  const std::string text = read_file(test_data("model/" + name));
  std::vector<std::byte> bytes(text.size());
  std::memcpy(bytes.data(), text.data(), text.size());
  return bytes;
}

TEST(SoftTokens, SizesAreTheReferencesForAllBudgets) {
  const auto table = nlohmann::json::parse(read_file(test_data("model/geometry.json")));
  for (const auto& row : table["rows"]) {
    const auto size = target_size(row[0], row[1], row[2]);
    if (row[3].is_null()) {
      EXPECT_FALSE(size);
      continue;
    }
    ASSERT_TRUE(size) << row.dump();
    EXPECT_EQ(size->width, row[3].get<int>()) << row.dump();
    EXPECT_EQ(size->height, row[4].get<int>()) << row.dump();
    EXPECT_EQ(size->num_patches(), row[5].get<int>()) << row.dump();
  }
}

struct Case {
  const char* source;   // what is decoded
  const char* resized;  // what the reference makes of it
};
class Pictures : public testing::TestWithParam<Case> {};

TEST_P(Pictures, ResampledBitForBitAsTheReferenceDoes) {
  const auto image = decode_image(bytes_of(std::string("media/") + GetParam().source)), want = decode_image(bytes_of(std::string("tiny/goldens/") + GetParam().resized));
  ASSERT_TRUE(image && want);
  const auto size = target_size(image->width, image->height, 70);
  ASSERT_TRUE(size);
  EXPECT_EQ(size->width, want->width);
  EXPECT_EQ(size->height, want->height);
  const Image got = resize_bicubic(*image, size->width, size->height);
  EXPECT_TRUE(got.rgb == want->rgb);
}
INSTANTIATE_TEST_SUITE_P(Goldens, Pictures,
                         testing::Values(Case{"rings_640x480.png", "image_rings_640x480_resized.png"}, Case{"checker_97x61.png", "image_checker_97x61_resized.png"},
                                         Case{"waves_30x400.png", "image_waves_30x400_resized.png"}, Case{"rings_300x200_decoded.png", "image_rings_300x200_resized.png"}));

std::string digest(const std::vector<uint8_t>& bytes) { return sha256({reinterpret_cast<const char*>(bytes.data()), bytes.size()}); }

// The pictures of goldens/model, by their formulas: integers, and division towards zero.
Image formula_picture(const std::string& kind, int32_t width, int32_t height) {
  Image image{.width = width, .height = height, .rgb = {}};
  for (int32_t y = 0; y < height; ++y) {
    for (int32_t x = 0; x < width; ++x) {
      int32_t r = 0, g = 0, b = 0;
      if (kind == "rings") {
        const int32_t dx = x - width / 2, dy = y - height / 2;
        r = (dx * dx + dy * dy) / 37 % 256, g = 255 * x / std::max(width - 1, 1), b = 255 * y / std::max(height - 1, 1);
      } else if (kind == "checker") {
        r = 255 * ((x / 8 + y / 8) % 2), g = 200 * (x / 3 % 2) + y % 56, b = (7 * x + 11 * y) % 256;
      } else {
        r = (x * x / 50 + 3 * y) % 256, g = ((128 + x - y) % 256 + 256) % 256, b = x * y / 29 % 256;
      }
      for (const int32_t c : {r, g, b}) image.rgb.push_back(static_cast<uint8_t>(c));
    }
  }
  return image;
}

TEST(Pictures, AtEveryBudgetTheyAreResampledAndCutAsTheReferenceDoes) {
  const auto table = nlohmann::json::parse(read_file(test_data("model/resize.json")));
  ASSERT_EQ(table["rows"].size(), 9u);
  for (const auto& row : table["rows"]) {
    const std::string name = row["kind"].get<std::string>() + " " + row["width"].dump() + " x " + row["height"].dump() + ", budget " + row["budget"].dump();
    const Image image = formula_picture(row["kind"], row["width"], row["height"]);
    const auto size = target_size(image.width, image.height, row["budget"]);
    ASSERT_TRUE(size) << name;
    ASSERT_EQ(nlohmann::json::array({size->width, size->height}), row["resized"]) << name;
    const Image resized = resize_bicubic(image, size->width, size->height);
    for (const auto& probe : row["probes"]) {  // says where, when the digest differs
      const auto at = static_cast<size_t>((probe[1].get<int32_t>() * resized.width + probe[0].get<int32_t>()) * 3);
      EXPECT_EQ(nlohmann::json::array({resized.rgb[at], resized.rgb[at + 1], resized.rgb[at + 2]}), probe[2]) << name << " at " << probe.dump();
    }
    EXPECT_EQ(digest(resized.rgb), row["resized_rgb_sha256"]) << name;
    const auto patches = image_patches(image, row["budget"]);
    ASSERT_TRUE(patches) << name;
    EXPECT_EQ(patches->num_patches(), row["soft_tokens"]) << name;
    EXPECT_EQ(digest(patches->pixels), row["patches_sha256"]) << name;
  }
}

TEST(Pictures, PatchesOfImagesAndFramesAreTheReferences) {
  const auto cases = nlohmann::json::parse(read_file(test_data("model/tiny/goldens/manifest.json")))["cases"];
  std::vector<std::array<std::string, 2>> wanted;  // file, digest
  for (const auto& [name, c] : cases.items()) {
    if (!name.starts_with("image_")) continue;
    std::string file = c["file"];
    if (file.ends_with(".jpg")) file.replace(file.size() - 4, 4, "_decoded.png");  // decoders of JPEG differ by a level or two
    wanted.push_back({file, c["patches_sha256"]});
  }
  for (size_t i = 0; i < cases["video"]["frames"].size(); ++i) wanted.push_back({cases["video"]["frames"][i], cases["video"]["patches_sha256"][i]});
  EXPECT_EQ(wanted.size(), 4u + 3u);
  for (const auto& [file, want] : wanted) {
    const auto image = decode_image(bytes_of("media/" + file));
    ASSERT_TRUE(image) << file;
    EXPECT_EQ(digest(image_patches(*image, 70)->pixels), want) << file;
  }
}

TEST(Pictures, PatchesAreTheReferences) {
  const auto image = decode_image(bytes_of("media/rings_300x200_decoded.png"));
  ASSERT_TRUE(image);
  const auto patches = image_patches(*image, 70);
  ASSERT_TRUE(patches);
  const TensorFiles golden = TensorFiles::open(test_data("model/tiny/goldens/image_rings_300x200.safetensors"));
  const Tensor& want = golden.find("patches_u8")->tensor;
  ASSERT_EQ(patches->num_patches(), want.rows());
  EXPECT_EQ(std::memcmp(patches->pixels.data(), want.data, patches->pixels.size()), 0);
}

TEST(Pictures, JpegDecodesAsTheReferencesDecoderDoes) {
  const auto image = decode_image(bytes_of("media/rings_300x200.jpg")), want = decode_image(bytes_of("media/rings_300x200_decoded.png"));
  ASSERT_TRUE(image && want);
  ASSERT_EQ(image->rgb.size(), want->rgb.size());
  int worst = 0;
  for (size_t i = 0; i < want->rgb.size(); ++i) worst = std::max(worst, std::abs(image->rgb[i] - want->rgb[i]));
  EXPECT_LE(worst, 3);
}

TEST(Pictures, TransparencyIsLaidOverWhite) {
  // By hand: the file has one pixel, red with alpha 128, and one that is wholly transparent.
  const auto image = decode_image(bytes_of("media/alpha_2x1.png"));
  ASSERT_TRUE(image);
  EXPECT_EQ(image->rgb, (std::vector<uint8_t>{255, 127, 127, 255, 255, 255}));
}

TEST(Exif, OrientationIsReadInBothByteOrdersAndBrokenBlocksGiveOne) {
  const std::vector<uint8_t> little{'I', 'I', 42, 0, 8, 0, 0, 0, 1, 0, 0x12, 0x01, 3, 0, 1, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0};
  const std::vector<uint8_t> big{'M', 'M', 0, 42, 0, 0, 0, 8, 0, 1, 0x01, 0x12, 0, 3, 0, 0, 0, 1, 0, 8, 0, 0, 0, 0, 0, 0};
  EXPECT_EQ(exif_orientation(little), 6);
  EXPECT_EQ(exif_orientation(big), 8);
  for (size_t cut = 0; cut < 22; ++cut) EXPECT_EQ(exif_orientation(std::span(little).first(cut)), 1);
}

int worst_difference(const Image& a, const Image& b) {
  if (a.width != b.width || a.height != b.height) return 256;
  int worst = 0;
  for (size_t i = 0; i < a.rgb.size(); ++i) worst = std::max(worst, std::abs(a.rgb[i] - b.rgb[i]));
  return worst;
}

// One picture of 16 x 12 pixels in many files, written by Pillow. Those without loss are equal; the others within a few levels.
TEST(Pictures, AreTheSameInEveryFormat) {
  struct File {
    const char *name, *want;
    int levels;
  };
  const auto picture = [](const std::string& name) { return value_or_raise(decode_image(bytes_of("media/formats/" + name))); };
  for (const File& file : {File{"want_16bit.png", "want.png", 0}, {"few_colors_palette.png", "few_colors.png", 0}, {"few_colors.gif", "few_colors.png", 0}, {"want_lossless.webp", "want.png", 0}, {"want_lossy.webp", "want.png", 24},
                           {"want_cmyk.jpg", "want.png", 6}}) {
    EXPECT_LE(worst_difference(picture(file.name), picture(file.want)), file.levels) << file.name;
  }
  for (int orientation = 1; orientation <= 8; ++orientation) {  // each file is turned so that its EXIF turns it back
    EXPECT_LE(worst_difference(picture("want_exif" + std::to_string(orientation) + ".jpg"), picture("want.png")), 6) << orientation;
  }
}

TEST(Audio, IsTheSameInEveryFormat) {
  const auto clip = [](const std::string& name) { return value_or_raise(decode_audio(bytes_of("media/" + name))).samples; };
  const std::vector<float> want = clip("sweep_0.5s.wav");
  EXPECT_EQ(clip("formats/sweep_0.5s.flac"), want);
  for (const char* lossy : {"ogg", "mp3"}) {
    const std::vector<float> got = clip(std::string("formats/sweep_0.5s.") + lossy);
    EXPECT_NEAR(static_cast<double>(got.size()), static_cast<double>(want.size()), 0.1 * kAudioRate) << lossy;
    double best = 0;  // correlation over the delays that encoders leave
    for (size_t delay = 0; delay < 2400; ++delay) {
      double product = 0, squares = 0, own = 0;
      for (size_t i = 0; i < want.size() && i + delay < got.size(); ++i) product += want[i] * got[i + delay], squares += got[i + delay] * got[i + delay], own += want[i] * want[i];
      best = std::max(best, product / std::sqrt(squares * own + 1e-12));
    }
    EXPECT_GT(best, 0.98) << lossy;
  }
}

// Forty frames at five a second, frame i of the grey level 20 + 5 i: 32 are taken, frame floor(j * 40 / 32), each with its time.
TEST(Video, FramesAreTakenEvenlyAndKnowTheirTimes) {
  const auto frames = decode_video(bytes_of("media/formats/forty_frames.mp4"));
  ASSERT_TRUE(frames) << frames.error().message;
  ASSERT_EQ(frames->size(), 32u);
  for (size_t j = 0; j < frames->size(); ++j) {
    const size_t index = j * 40 / 32;
    EXPECT_NEAR((*frames)[j].seconds, static_cast<double>(index) / 5, 1e-9) << j;
    const auto& pixels = (*frames)[j].patches.pixels;
    EXPECT_NEAR(pixels[pixels.size() / 2], 20 + 5 * static_cast<int>(index), 2) << j;
  }
  EXPECT_EQ(video_stamp(7.9), "00:07");
  EXPECT_EQ(video_stamp(3725), "62:05");
  EXPECT_EQ(decode_video(bytes_of("media/formats/forty_frames.mp4"), {.max_frames = 39}).error().code, ErrorCode::invalid_argument);
}

TEST(AvInput, DecodingEndsWithItsTime) {
  const auto bytes = bytes_of("media/formats/forty_frames.mp4");
  auto input = value_or_raise(AvInput::open(bytes, AVMEDIA_TYPE_VIDEO, /*max_seconds=*/0));
  const auto frame = input->next_frame();
  ASSERT_FALSE(frame);
  EXPECT_NE(frame.error().message.find("longer than 0 s to decode"), std::string::npos) << frame.error().message;
}

TEST(Audio, FramesAreTheReferences) {
  for (const char* name : {"sweep_0.5s", "sweep_2.3s"}) {
    const auto clip = decode_audio(bytes_of(std::string("media/") + name + ".wav"));
    ASSERT_TRUE(clip) << clip.error().message;
    const AudioFrames frames = audio_frames(*clip);
    const TensorFiles golden = TensorFiles::open(test_data(std::string("model/tiny/goldens/audio_") + name + ".safetensors"));
    const Tensor& want = golden.find("features")->tensor;
    ASSERT_EQ(frames.num_frames(), want.rows());
    EXPECT_EQ(std::memcmp(frames.samples.data(), want.data, frames.samples.size() * 4), 0) << name;
  }
}

TEST(Audio, OtherRatesAndChannelsBecome16kHzMono) {
  const auto clip = decode_audio(bytes_of("media/sweep_0.4s_44100_stereo.wav"));
  ASSERT_TRUE(clip) << clip.error().message;
  EXPECT_NEAR(static_cast<double>(clip->samples.size()), 6400, 2);
  // The file holds a sweep from 110 to 3,300 Hz at 0.5, and half as loud on the other channel: what it would be at 16 kHz is a formula. The filter rings at the ends.
  double worst = 0;
  for (size_t i = 100; i + 100 < clip->samples.size(); ++i) {
    const double t = static_cast<double>(i) / kAudioRate;
    worst = std::max(worst, std::fabs(clip->samples[i] - 0.375 * std::sin(2 * M_PI * (110 * t + (3300 - 110) * t * t / (2 * 0.4)))));
  }
  EXPECT_LT(worst, 1e-3);
}
}  // namespace
}  // namespace nibble
