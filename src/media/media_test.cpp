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
#include "media/resize.h"

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
  float highest = 0;
  for (const float s : clip->samples) highest = std::max(highest, std::fabs(s));
  EXPECT_GT(highest, 0.05f);
  EXPECT_LE(highest, 1.05f);
}
}  // namespace
}  // namespace nibble
