#include "server/media_parts.h"

#include <gtest/gtest.h>

#include "base/file_io.h"
#include "base/test_paths.h"

namespace nibble {
namespace {
const MediaOptions kOptions{.images = true, .audio = true, .image_budget = 70, .image_id = 50, .audio_id = 51, .video_id = 52, .boi_id = 60, .eoi_id = 61, .boa_id = 62, .eoa_id = 63};

std::string base64(std::string_view bytes) {
  constexpr char kAlphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t v = 0;
    for (size_t k = 0; k < 3; ++k) v = v << 8 | (i + k < bytes.size() ? static_cast<unsigned char>(bytes[i + k]) : 0);
    for (size_t k = 0; k < 4; ++k) out += i + k <= bytes.size() ? kAlphabet[v >> (18 - 6 * k) & 63] : '=';
  }
  return out;
}

MediaReference reference(MediaKind kind, const std::string& file) { return {kind, "data:x/y;base64," + base64(read_file(test_data("model/media/" + file))), {}, "messages[0].content[0]"}; }

TEST(Base64, DecodesWithAndWithoutPaddingAndRefusesTheRest) {
  EXPECT_EQ(decode_base64_url("data:image/png;base64,aGVsbG8=").value(), "hello");
  EXPECT_EQ(decode_base64_url("aGVs\nbG8").value(), "hello");
  for (const char* bad : {"", "data:image/png,abc", "a", "aGVs*G8=", "aG=Vs", "data:;base64,"}) EXPECT_FALSE(decode_base64_url(bad)) << bad;
}

TEST(ExpandMedia, PlaceholdersBecomeWrappedRunsInOrder) {
  const std::vector<MediaReference> references{reference(MediaKind::image, "rings_300x200.jpg"), reference(MediaKind::audio, "sweep_0.5s.wav")};
  std::vector<int32_t> ids{2, 7, 50, 8, 51, 9};
  const auto media = expand_media(ids, prepare_media(references, kOptions, 0), kOptions);
  ASSERT_EQ(media.size(), 2u);
  EXPECT_EQ(media[0].first_position, 3);
  EXPECT_EQ(media[0].count, 60);
  EXPECT_EQ(media[1].count, 13);
  ASSERT_EQ(ids.size(), 4u + 62u + 15u);
  EXPECT_EQ(ids[2], 60);
  EXPECT_EQ(ids[63], 61);
  EXPECT_EQ(ids[65], 62);
  EXPECT_EQ(ids[static_cast<size_t>(media[1].first_position)], 51);
  std::vector<int32_t> missing{2, 50};
  EXPECT_THROW(expand_media(missing, prepare_media(references, kOptions, 0), kOptions), Error);
}

TEST(PrepareMedia, DetailAndTheRequestSetTheBudget) {
  MediaReference image = reference(MediaKind::image, "rings_640x480.png");
  EXPECT_EQ(prepare_media(std::span(&image, 1), kOptions, 0)[0].blocks[0].count, 63);
  EXPECT_EQ(prepare_media(std::span(&image, 1), kOptions, 280)[0].blocks[0].count, 266);
  image.detail = "high";
  EXPECT_EQ(prepare_media(std::span(&image, 1), kOptions, 280)[0].blocks[0].count, 1064);
  image.detail = "enormous";
  EXPECT_THROW(prepare_media(std::span(&image, 1), kOptions, 0), Error);
}

TEST(PrepareMedia, NothingIsFetchedAndFilesAreReadOnlyUnderTheAllowedFolder) {
  for (const char* url : {"http://127.0.0.1/x.png", "HTTPS://example.com/x.png", "file:///etc/passwd", "/etc/hostname.png", "../x.png"}) {
    const MediaReference r{MediaKind::image, url, {}, "p"};
    EXPECT_THROW(prepare_media(std::span(&r, 1), kOptions, 0), Error) << url;
  }
  MediaOptions local = kOptions;
  local.local_path = test_data("model/media").string();
  const MediaReference inside{MediaKind::image, "file://" + test_data("model/media/rings_300x200.jpg").string(), {}, "p"};
  EXPECT_EQ(prepare_media(std::span(&inside, 1), local, 0)[0].blocks[0].count, 60);
  const MediaReference outside{MediaKind::image, "file://" + test_data("model/media/../tiny/goldens/image_rings_300x200_resized.png").string(), {}, "p"};
  EXPECT_THROW(prepare_media(std::span(&outside, 1), local, 0), Error);
}

TEST(SpellOutVideos, OnlyThePlaceholderThatTheTemplateWrote) {
  const std::string text = "user says <|video|>. <|video|> end";
  const MarkedText prompt{text, {{text.find(". ") + 2, text.size()}}};
  const PreparedMedia video{MediaKind::video, {}, {"00:00", "00:01"}};
  const MarkedText out = spell_out_videos(prompt, std::span(&video, 1));
  EXPECT_EQ(out.text, "user says <|video|>. 00:00 <|video|> 00:01 <|video|> end");
  ASSERT_EQ(out.trusted.size(), 1u);
  EXPECT_EQ(out.trusted[0].begin, prompt.trusted[0].begin);
  EXPECT_EQ(out.trusted[0].end, out.text.size());
}

// What is broken is refused with the part's name; nothing of it is kept.
TEST(BrokenMedia, ThreeHundredBrokenFilesAreRefused) {
  struct Source {
    MediaKind kind;
    const char* file;
  };
  const Source sources[] = {{MediaKind::image, "rings_300x200.jpg"}, {MediaKind::image, "rings_640x480.png"}, {MediaKind::image, "frame_0.png"}, {MediaKind::audio, "sweep_0.5s.wav"},
                            {MediaKind::audio, "sweep_0.4s_44100_stereo.wav"}, {MediaKind::video, "rings_300x200.jpg"}};
  int refused = 0;
  const auto expect_refused = [&](MediaKind kind, const std::string& bytes, const std::string& what) {
    const MediaReference r{kind, "data:;base64," + base64(bytes), {}, "messages[0].content[1]"};
    try {
      prepare_media(std::span(&r, 1), kOptions, 0);
      ADD_FAILURE() << what << " was taken";
    } catch (const Error& error) {
      EXPECT_EQ(error.code, ErrorCode::invalid_argument);
      EXPECT_EQ(error.param, "messages[0].content[1]");
      ++refused;
    }
  };
  for (const Source& source : sources) {
    if (source.kind == MediaKind::video) continue;
    const std::string whole = read_file(test_data(std::string("model/media/") + source.file));
    for (int i = 0; i < 40; ++i) {  // cut off
      const size_t keep = 1 + whole.size() * static_cast<size_t>(i) / 44;
      expect_refused(source.kind, whole.substr(0, keep), fmt::format("{} cut to {}", source.file, keep));
    }
    for (int i = 0; i < 12; ++i) {  // another format's beginning
      std::string broken = whole;
      broken[static_cast<size_t>(i) % 3] = static_cast<char>(broken[static_cast<size_t>(i) % 3] ^ (1 << (i % 7)));
      expect_refused(source.kind, broken, fmt::format("{} with byte {} changed", source.file, i % 3));
    }
  }
  const std::string png = read_file(test_data("model/media/rings_640x480.png"));
  for (size_t i = 0; i < 40; ++i) {  // wrong checksums
    std::string broken = png;
    broken[200 + i * 997] = static_cast<char>(broken[200 + i * 997] ^ 0x55);
    expect_refused(MediaKind::image, broken, fmt::format("PNG with byte {} changed", 200 + i * 997));
  }
  EXPECT_GE(refused, 300);
}
}  // namespace
}  // namespace nibble
