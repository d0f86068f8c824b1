// Every golden of pictures, sound and video, from the files to the logits, in float32 on the CPU and in bf16 on each device.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/file_io.h"
#include "media/audio.h"
#include "media/resize.h"
#include "model/logits_test_kit.h"
#include "model/media_embedder.h"
#include "model/media_test_kit.h"

namespace nibble {
namespace {
constexpr float kTolerance = 1e-3f;  // goldens/model: two orders of summation differ by up to 5e-5
const ModelOptions kFloat32{.activations = DType::f32, .kv_cache = DType::f32}, kBf16{.activations = DType::bf16, .kv_cache = DType::bf16};

struct Case {
  std::string name;
  std::vector<std::string> files;  // in the prompt's order
  friend void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }
};
const std::vector<Case>& all_cases() {
  static const std::vector<Case> cases{{"image_rings_640x480", {"rings_640x480.png"}},
                                       {"image_checker_97x61", {"checker_97x61.png"}},
                                       {"image_waves_30x400", {"waves_30x400.png"}},
                                       {"image_rings_300x200", {"rings_300x200_decoded.png"}},  // decoders of JPEG differ by a level or two
                                       {"audio_sweep_0.5s", {"sweep_0.5s.wav"}},
                                       {"audio_sweep_2.3s", {"sweep_2.3s.wav"}},
                                       {"video", {"frame_0.png", "frame_1.png", "frame_2.png"}},
                                       {"mixed", {"checker_97x61.png", "sweep_0.5s.wav", "rings_300x200_decoded.png"}}};
  return cases;
}
// Those of which the goldens hold more than logits.
std::vector<Case> cases_of(std::initializer_list<std::string_view> kinds) {
  std::vector<Case> out;
  for (const Case& c : all_cases()) {
    for (const std::string_view kind : kinds) {
      if (c.name.starts_with(kind)) out.push_back(c);
    }
  }
  return out;
}
std::string letters(std::string name) {
  std::erase_if(name, [](char c) { return !std::isalnum(static_cast<unsigned char>(c)); });
  return name;
}

std::vector<std::byte> bytes_of(const std::string& file) {
  const std::string text = read_file(test_data("model/media/" + file));
  const auto* begin = reinterpret_cast<const std::byte*>(text.data());
  return {begin, begin + text.size()};
}

struct Prompt {
  TensorFiles golden;
  std::vector<int32_t> ids;
  std::vector<SoftTokens> media;

  // What the files become must be as many soft tokens as the golden's prompt has places.
  explicit Prompt(const Case& c) : golden(TensorFiles::open(test_data("model/tiny/goldens/" + c.name + ".safetensors"))), ids(values_of<int32_t>(golden, "input_ids")), media(media_of(golden)) {
    EXPECT_EQ(media.size(), c.files.size()) << c.name;
    for (size_t i = 0; i < std::min(media.size(), c.files.size()); ++i) {
      if (media[i].is_picture()) {
        const auto patches = image_patches(value_or_raise(decode_image(bytes_of(c.files[i]))), 70);
        EXPECT_TRUE(patches) << c.files[i];
        EXPECT_EQ(patches->num_patches(), media[i].count) << c.files[i];
        media[i].patches = patches->pixels, media[i].columns = patches->columns;
      } else {
        const AudioFrames frames = audio_frames(value_or_raise(decode_audio(bytes_of(c.files[i]))));
        EXPECT_EQ(frames.num_frames(), media[i].count) << c.files[i];
        media[i].frames = frames.samples;
      }
    }
  }

  // The rows that the golden has logits of.
  std::vector<float> rows_of(const std::vector<float>& logits, int32_t vocab) const {
    std::vector<float> out;
    for (const int32_t row : values_of<int32_t>(golden, "logit_rows")) out.insert(out.end(), logits.begin() + int64_t{row} * vocab, logits.begin() + int64_t{row + 1} * vocab);
    return out;
  }
};

class PictureGoldens : public testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Goldens, PictureGoldens, testing::ValuesIn(cases_of({"image_", "video"})), [](const auto& p) { return letters(p.param.name); });

TEST_P(PictureGoldens, PatchesLieWhereTheReferencePutsThem) {
  const Prompt prompt(GetParam());
  const auto positions = values_of<int32_t>(prompt.golden, "position_ids");  // of the first picture; frames of a video are all alike
  for (const SoftTokens& m : prompt.media) {
    ASSERT_EQ(positions.size(), static_cast<size_t>(m.count) * 2);
    for (int32_t i = 0; i < m.count; ++i) {
      ASSERT_EQ(i % m.columns, positions[static_cast<size_t>(i) * 2]) << i;
      ASSERT_EQ(i / m.columns, positions[static_cast<size_t>(i) * 2 + 1]) << i;
    }
  }
}

class MediaFiles : public testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Goldens, MediaFiles, testing::ValuesIn(all_cases()), [](const auto& p) { return letters(p.param.name); });

TEST_P(MediaFiles, LogitsInFloat32AreTheReferences) {
  const Prompt prompt(GetParam());
  TinyWithMedia tiny(kFloat32);
  const std::vector<float> got = tiny.run(prompt.ids, prompt.media);
  EXPECT_LT(logits_distance(values_of<float>(prompt.golden, "logits_fp32"), prompt.rows_of(got, tiny.config.vocab_size), static_cast<size_t>(tiny.config.vocab_size)).max_abs, kTolerance);
  // A chunk may end anywhere but inside a picture.
  std::vector<int32_t> cuts;
  for (const SoftTokens& m : prompt.media) {
    for (const int32_t at : {m.first_position - 1, m.first_position, m.end(), m.end() + 1}) {
      if (cuts.empty() || at > cuts.back()) cuts.push_back(at);
    }
  }
  const std::vector<float> cut = tiny.run(prompt.ids, prompt.media, cuts);
  EXPECT_EQ(std::memcmp(cut.data(), got.data(), got.size() * 4), 0) << "in chunks";
}

TEST_P(PictureGoldens, WithoutBlocksTheLastLogitsAreTheReferencesCausalOnes) {
  const Prompt prompt(GetParam());
  const char* name = GetParam().name == "video" ? "last_logits_frames_causal_fp32" : "last_logits_causal_fp32";
  TinyWithMedia tiny(kFloat32);
  tiny.config.image_blocks_see_themselves = false;
  const std::vector<float> got = tiny.run(prompt.ids, prompt.media);
  EXPECT_LT(logits_distance(values_of<float>(prompt.golden, name), std::span(got).last(static_cast<size_t>(tiny.config.vocab_size)), static_cast<size_t>(tiny.config.vocab_size)).max_abs, kTolerance);
}

TEST(MediaGoldens, SixteenGreedyTokensAfterImageSoundAndImageAreTheReferences) {
  Prompt prompt(all_cases().back());
  TinyWithMedia tiny(kFloat32);
  const auto want = values_of<int32_t>(prompt.golden, "greedy_ids_fp32");
  ASSERT_EQ(want.size(), 16u);
  std::vector<int32_t> got;
  while (got.size() < want.size()) {
    std::vector<float> logits = tiny.run(prompt.ids, prompt.media);
    const auto last = logits.end() - tiny.config.vocab_size;
    for (const int32_t id : {tiny.config.eoi_token_id, tiny.config.eoa_token_id}) last[id] = -INFINITY;  // as its generation_config suppresses
    got.push_back(static_cast<int32_t>(std::max_element(last, logits.end()) - last));
    prompt.ids.push_back(got.back());
  }
  EXPECT_EQ(got, want);
}

using CaseOnDevice = std::tuple<Case, std::string>;
std::string name_of(const testing::TestParamInfo<CaseOnDevice>& p) { return letters(std::get<0>(p.param).name + std::get<1>(p.param)); }
class MediaEmbedderOnDevices : public testing::TestWithParam<CaseOnDevice> {};
INSTANTIATE_TEST_SUITE_P(Goldens, MediaEmbedderOnDevices, testing::Combine(testing::ValuesIn(cases_of({"image_", "audio_"})), testing::ValuesIn(devices())), name_of);
class MediaOnDevices : public testing::TestWithParam<CaseOnDevice> {};
INSTANTIATE_TEST_SUITE_P(Goldens, MediaOnDevices, testing::Combine(testing::ValuesIn(all_cases()), testing::ValuesIn(devices())), name_of);

// Float32: 1e-3 as the goldens say. bf16: as far as the reference's own bf16 embedders are from its float32 ones, twice (the manifest's numbers).
TEST_P(MediaEmbedderOnDevices, SoftTokensAreTheReferences) {
  const auto& [c, device] = GetParam();
  const Prompt prompt(c);
  for (const DType activations : {DType::f32, DType::bf16}) {
    if (activations == DType::f32 && device != "cpu") continue;  // float32 is the CPU's
    TinyWithMedia tiny(kBf16, device);
    const SoftTokens& m = prompt.media[0];
    MediaEmbedder embedder(tiny.config, tiny.weights, activations, m.count, *tiny.backend);
    const Tensor x = tiny.backend->allocate(DType::f32, {m.count, tiny.config.hidden_size}, "a test");
    const SoftRows rows{&m, 0, m.count, 0};
    embedder.embed(std::span(&rows, 1), x);
    std::vector<float> got(static_cast<size_t>(x.count()));
    tiny.backend->download(x, got.data());
    const auto want = values_of<float>(prompt.golden, "soft_fp32");
    const auto reference = values_of<uint16_t>(prompt.golden, "soft_bf16");
    float worst = 0, own = 0;
    for (size_t i = 0; i < want.size(); ++i) {
      worst = std::max(worst, std::fabs(got[i] - want[i]));
      own = std::max(own, std::fabs(std::bit_cast<float>(uint32_t{reference[i]} << 16) - want[i]));
    }
    EXPECT_LT(worst, activations == DType::f32 ? kTolerance : 2 * own) << (activations == DType::f32 ? "f32" : "bf16");
  }
}

TEST_P(MediaOnDevices, LogitsInBf16AreAsNearAsTheReferencesOwn) {
  const auto& [c, device] = GetParam();
  const Prompt prompt(c);
  TinyWithMedia tiny(kBf16, device);
  const std::vector<float> whole = tiny.run(prompt.ids, prompt.media);
  const auto own = nlohmann::json::parse(read_file(tiny.folder / "goldens/manifest.json"))["cases"][c.name]["bf16_vs_fp32"];
  expect_near_as_the_references_bf16(logits_distance(values_of<float>(prompt.golden, "logits_fp32"), prompt.rows_of(whole, tiny.config.vocab_size), static_cast<size_t>(tiny.config.vocab_size)),
                                     {.rms = own["rms"], .kl_mean = own["kl_mean"], .kl_max = own["kl_max"]}, c.name + " on " + device);
  for (const std::vector<int32_t>& cuts : {std::vector<int32_t>{prompt.media[0].first_position}, {prompt.media[0].end()}, {prompt.media[0].first_position, prompt.media.back().end()}}) {
    const std::vector<float> cut = tiny.run(prompt.ids, prompt.media, cuts);
    EXPECT_EQ(std::memcmp(cut.data(), whole.data(), whole.size() * 4), 0) << "cut at " << cuts[0];
  }
}
}  // namespace
}  // namespace nibble
