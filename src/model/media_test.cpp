// Images, audio and video in prompts against the reference's logits (goldens).
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>
#include <numeric>

#include "base/test_paths.h"
#include "formats/safetensors.h"
#include "model/model.h"
#include "model/test_devices.h"

namespace nibble {
namespace {
constexpr float kTolerance = 1e-3f;  // goldens/model: two orders of summation differ by up to 5e-5

template <typename T>
std::vector<T> values(const TensorFiles& files, const std::string& name) {
  const Tensor& t = files.find(name)->tensor;
  std::vector<T> out(static_cast<size_t>(t.count()));
  std::memcpy(out.data(), t.data, out.size() * sizeof(T));
  return out;
}

struct Tiny {
  std::filesystem::path folder = test_data("model/tiny");
  ModelConfig config = parse_model_config(read_config_json(folder), "tiny");
  ModelWeights weights = ModelWeights::load(folder, config, {});
  std::unique_ptr<Backend> backend;
  Gemma4Model model;

  explicit Tiny(ModelOptions options, const std::string& device = "cpu") : backend(backend_on(device)), model(config, weights, with_pages(options), *backend) {}
  static ModelOptions with_pages(ModelOptions options) {
    options.num_full_pages = options.num_sliding_pages = 32;
    return options;
  }

  // All logits of a prompt in chunks that end at `cuts` and at the prompt's end.
  std::vector<float> run(const std::vector<int32_t>& ids, const std::vector<SoftTokens>& media, std::vector<int32_t> cuts = {}) {
    std::vector<int32_t> pages(32);
    std::iota(pages.begin(), pages.end(), 0);
    std::vector<float> logits;
    cuts.push_back(static_cast<int32_t>(ids.size()));
    int32_t at = 0;
    for (const int32_t end : cuts) {
      const SequenceSlice slice{0, end - at, at, pages, pages};
      std::vector<int32_t> rows(static_cast<size_t>(end - at));
      std::iota(rows.begin(), rows.end(), 0);
      std::vector<SoftRows> soft;
      for (const SoftTokens& m : media) {
        const int32_t begin = std::max(m.first_position, at), last = std::min(m.end(), end);
        if (begin < last) soft.push_back({&m, begin - at, last - begin, begin - m.first_position});
      }
      std::vector<float> part(rows.size() * static_cast<size_t>(config.vocab_size));
      model.forward({std::span(ids).subspan(static_cast<size_t>(at), rows.size()), std::span(&slice, 1), rows, soft}, part.data());
      logits.insert(logits.end(), part.begin(), part.end());
      at = end;
    }
    return logits;
  }
};

// Runs of equal types are media; video frames are told apart by the text between them.
std::vector<SoftTokens> media_of(const TensorFiles& golden) {
  const auto types = values<uint8_t>(golden, "token_types");
  std::vector<SoftTokens> media;
  for (size_t i = 0; i < types.size(); ++i) {
    if (types[i] == 0) continue;
    if (i == 0 || types[i - 1] != types[i]) media.push_back({.kind = types[i] == 1 ? SoftTokens::Kind::image : types[i] == 2 ? SoftTokens::Kind::video : SoftTokens::Kind::audio, .first_position = static_cast<int32_t>(i)});
    ++media.back().count;
  }
  return media;
}

void expect_rows(const std::vector<float>& got, const TensorFiles& golden, int32_t vocab, const std::string& name) {
  const auto want = values<float>(golden, "logits_fp32");
  const auto rows = values<int32_t>(golden, "logit_rows");
  float worst = 0;
  for (size_t r = 0; r < rows.size(); ++r) {
    for (int32_t i = 0; i < vocab; ++i) {
      worst = std::max(worst, std::fabs(got[static_cast<size_t>(rows[r] * vocab + i)] - want[r * static_cast<size_t>(vocab) + static_cast<size_t>(i)]));
    }
  }
  EXPECT_LT(worst, kTolerance) << name;
}

TEST(MediaGoldens, ImageLogitsAreTheReferencesAlsoWhenTheChunkBeginsOrEndsAtTheImage) {
  Tiny tiny({.activations = DType::f32, .kv_cache = DType::f32});
  const TensorFiles golden = TensorFiles::open(tiny.folder / "goldens/image_rings_300x200.safetensors");
  std::vector<SoftTokens> media = media_of(golden);
  ASSERT_EQ(media.size(), 1u);
  media[0].patches = values<uint8_t>(golden, "patches_u8");
  media[0].columns = 10;
  const auto ids = values<int32_t>(golden, "input_ids");
  const auto whole = tiny.run(ids, media);
  expect_rows(whole, golden, tiny.config.vocab_size, "whole");
  for (const auto& cuts : {std::vector<int32_t>{media[0].first_position}, {media[0].end()}, {media[0].first_position - 2, media[0].end() + 3}, {media[0].first_position, media[0].end()}}) {
    const auto cut = tiny.run(ids, media, cuts);
    EXPECT_EQ(std::memcmp(cut.data(), whole.data(), whole.size() * 4), 0) << "cut at " << cuts[0];
  }
}

class MediaOnDevices : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(All, MediaOnDevices, testing::ValuesIn(devices()));

TEST_P(MediaOnDevices, RowsOfAnImageThatIsPartlyCachedGiveTheSameBits) {
  // The first rows are computed with the whole image and then stand in the pages, as after a prefix hit that ends inside the image.
  Tiny tiny({.activations = DType::bf16, .kv_cache = DType::bf16}, GetParam());
  const TensorFiles golden = TensorFiles::open(tiny.folder / "goldens/image_rings_300x200.safetensors");
  std::vector<SoftTokens> media = media_of(golden);
  media[0].patches = values<uint8_t>(golden, "patches_u8");
  media[0].columns = 10;
  const auto ids = values<int32_t>(golden, "input_ids");
  const auto whole = tiny.run(ids, media);
  std::vector<int32_t> pages(32);
  std::iota(pages.begin(), pages.end(), 0);
  const int32_t at = media[0].first_position + 24, rows = static_cast<int32_t>(ids.size()) - at;
  const SequenceSlice slice{0, rows, at, pages, pages};
  const SoftRows soft{&media[0], 0, media[0].end() - at, 24};
  std::vector<int32_t> wanted(static_cast<size_t>(rows));
  std::iota(wanted.begin(), wanted.end(), 0);
  std::vector<float> rest(wanted.size() * static_cast<size_t>(tiny.config.vocab_size));
  tiny.model.forward({std::span(ids).subspan(static_cast<size_t>(at)), std::span(&slice, 1), wanted, std::span(&soft, 1)}, rest.data());
  EXPECT_EQ(std::memcmp(rest.data(), whole.data() + at * tiny.config.vocab_size, rest.size() * 4), 0);
}

// In bf16 every device stays near the reference, the GPU as near as the CPU, and cuts beside the media change no bit.
TEST_P(MediaOnDevices, LogitsInBf16AreNearTheReferences) {
  for (const char* name : {"image_rings_300x200", "audio_sweep_0.5s", "audio_sweep_2.3s"}) {
    std::map<std::string, double> rms;
    for (const std::string& device : {std::string("cpu"), GetParam()}) {
      Tiny tiny({.activations = DType::bf16, .kv_cache = DType::bf16}, device);
      const TensorFiles golden = TensorFiles::open(tiny.folder / "goldens" / (std::string(name) + ".safetensors"));
      std::vector<SoftTokens> media = media_of(golden);
      ASSERT_EQ(media.size(), 1u);
      if (media[0].is_picture()) {
        media[0].patches = values<uint8_t>(golden, "patches_u8");
        media[0].columns = 10;
      } else {
        media[0].frames = values<float>(golden, "features");
      }
      const auto ids = values<int32_t>(golden, "input_ids");
      const auto whole = tiny.run(ids, media), want = values<float>(golden, "logits_fp32");
      const auto rows = values<int32_t>(golden, "logit_rows");
      const auto vocab = static_cast<size_t>(tiny.config.vocab_size);
      double squares = 0;
      for (size_t r = 0; r < rows.size(); ++r) {
        for (size_t i = 0; i < vocab; ++i) squares += std::pow(double{whole[static_cast<size_t>(rows[r]) * vocab + i]} - want[r * vocab + i], 2);
      }
      rms[device] = std::sqrt(squares / static_cast<double>(want.size()));
      for (const auto& cuts : {std::vector<int32_t>{media[0].first_position}, {media[0].end()}, {media[0].first_position, media[0].end()}}) {
        const auto cut = tiny.run(ids, media, cuts);
        EXPECT_EQ(std::memcmp(cut.data(), whole.data(), whole.size() * 4), 0) << name << " on " << device << " cut at " << cuts[0];
      }
    }
    EXPECT_LT(rms["cpu"], 0.3) << name;
    EXPECT_LE(rms[GetParam()], 2 * rms["cpu"]) << name;
  }
}

TEST(MediaGoldens, WithoutBlocksTheLastLogitsAreTheReferencesCausalOnes) {
  Tiny tiny({.activations = DType::f32, .kv_cache = DType::f32});
  tiny.config.image_blocks_see_themselves = false;
  const TensorFiles golden = TensorFiles::open(tiny.folder / "goldens/image_rings_300x200.safetensors");
  std::vector<SoftTokens> media = media_of(golden);
  media[0].patches = values<uint8_t>(golden, "patches_u8");
  media[0].columns = 10;
  const auto got = tiny.run(values<int32_t>(golden, "input_ids"), media), want = values<float>(golden, "last_logits_causal_fp32");
  float worst = 0;
  for (size_t i = 0; i < want.size(); ++i) worst = std::max(worst, std::fabs(got[got.size() - want.size() + i] - want[i]));
  EXPECT_LT(worst, kTolerance);
}

TEST(MediaGoldens, AudioLogitsAreTheReferencesWhereverThePromptIsCut) {
  Tiny tiny({.activations = DType::f32, .kv_cache = DType::f32});
  for (const char* name : {"audio_sweep_0.5s", "audio_sweep_2.3s"}) {
    const TensorFiles golden = TensorFiles::open(tiny.folder / "goldens" / (std::string(name) + ".safetensors"));
    std::vector<SoftTokens> media = media_of(golden);
    ASSERT_EQ(media.size(), 1u);
    media[0].frames = values<float>(golden, "features");
    const auto ids = values<int32_t>(golden, "input_ids");
    const auto whole = tiny.run(ids, media), cut = tiny.run(ids, media, {media[0].first_position + 5});
    expect_rows(whole, golden, tiny.config.vocab_size, name);
    EXPECT_EQ(std::memcmp(cut.data(), whole.data(), whole.size() * 4), 0);
  }
}
}  // namespace
}  // namespace nibble
