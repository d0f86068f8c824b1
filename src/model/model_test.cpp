// The model against the reference implementation's logits (goldens), and against itself: any cut of a prompt gives the same bits.
#include "model/model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>

#include "base/error.h"
#include "base/file_io.h"
#include "base/test_paths.h"
#include "formats/generation_config.h"
#include "formats/safetensors.h"
#include "model/logits_test_kit.h"
#include "model/test_devices.h"

namespace nibble {
namespace {
struct Golden {
  TensorFiles files;
  explicit Golden(const std::filesystem::path& path) : files(TensorFiles::open(path)) {}
  std::vector<int32_t> ids(const std::string& name) const {
    const Tensor& t = files.find(name)->tensor;
    std::vector<int32_t> out(static_cast<size_t>(t.count()));
    for (size_t i = 0; i < out.size(); ++i) {
      if (t.dtype == DType::i64) {
        int64_t v;
        std::memcpy(&v, t.as<std::byte>() + i * 8, 8);
        out[i] = static_cast<int32_t>(v);
      } else {
        std::memcpy(&out[i], t.as<std::byte>() + i * 4, 4);
      }
    }
    return out;
  }
  std::vector<float> floats(const std::string& name) const {
    const Tensor& t = files.find(name)->tensor;
    std::vector<float> out(static_cast<size_t>(t.count()));
    std::memcpy(out.data(), t.data, out.size() * 4);
    return out;
  }
};

// A checkpoint with a model on it; sequence s uses the pages from s * kPagesPerSequence on.
struct Loaded {
  static constexpr int32_t kPagesPerSequence = 16;
  std::filesystem::path folder;
  ModelConfig config;
  ModelWeights weights;
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Gemma4Model> model;

  Loaded(const std::string& name, ModelOptions options, std::unique_ptr<Backend> on = make_cpu_backend({.num_threads = 2}), const std::function<void(ModelConfig&, ModelWeights&)>& edit = {}) : folder(test_data(name)), backend(std::move(on)) {
    const std::string text = read_config_json(folder);
    config = parse_model_config(text, name);
    weights = ModelWeights::load(folder, config, parse_quant_config(text, "", name));
    if (edit) edit(config, weights);
    options.num_full_pages = options.num_sliding_pages = 4 * kPagesPerSequence;
    model = std::make_unique<Gemma4Model>(config, weights, options, *backend);
  }

  struct Rows {
    std::vector<int32_t> ids;
    int32_t first_position = 0;
    int32_t sequence = 0;
  };

  // One step; logits of every row.
  std::vector<float> step(const std::vector<Rows>& parts) {
    std::vector<int32_t> ids, logit_rows;
    std::vector<std::vector<int32_t>> pages;
    std::vector<SequenceSlice> slices;
    for (const Rows& part : parts) {
      std::vector<int32_t>& table = pages.emplace_back(kPagesPerSequence);
      // Not in order, so that a wrong look-up shows.
      for (int32_t i = 0; i < kPagesPerSequence; ++i) table[static_cast<size_t>(i)] = part.sequence * kPagesPerSequence + (i * 5 + 3) % kPagesPerSequence;
      slices.push_back({static_cast<int32_t>(ids.size()), static_cast<int32_t>(part.ids.size()), part.first_position, {}, {}});
      ids.insert(ids.end(), part.ids.begin(), part.ids.end());
    }
    for (size_t i = 0; i < slices.size(); ++i) slices[i].full_pages = slices[i].sliding_pages = pages[i];
    logit_rows.resize(ids.size());
    std::iota(logit_rows.begin(), logit_rows.end(), 0);
    std::vector<float> logits(ids.size() * static_cast<size_t>(config.vocab_size));
    model->forward({ids, slices, logit_rows}, logits.data());
    return logits;
  }

  // A whole prompt in chunks of at most `chunk`.
  std::vector<float> run(const std::vector<int32_t>& ids, size_t chunk) {
    std::vector<float> logits;
    for (size_t at = 0; at < ids.size(); at += chunk) {
      const size_t end = std::min(ids.size(), at + chunk);
      const auto part = step({{{ids.begin() + static_cast<int64_t>(at), ids.begin() + static_cast<int64_t>(end)}, static_cast<int32_t>(at), 0}});
      logits.insert(logits.end(), part.begin(), part.end());
    }
    return logits;
  }

  // The sequences of goldens/ragged in one step.
  std::vector<float> run_ragged(const Golden& golden) {
    const std::vector<int32_t> lengths = golden.ids("lengths"), ids = golden.ids("input_ids");
    std::vector<Rows> parts;
    int64_t at = 0;
    for (size_t s = 0; s < lengths.size(); ++s) {
      parts.push_back({{ids.begin() + at, ids.begin() + at + lengths[s]}, 0, static_cast<int32_t>(s)});
      at += lengths[s];
    }
    return step(parts);
  }
};

float max_difference(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  float worst = 0.0f;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) worst = std::max(worst, std::fabs(a[i] - b[i]));
  return worst;
}

double root_mean_square(const std::vector<float>& a, const std::vector<float>& b) {
  double square = 0;
  for (size_t i = 0; i < a.size(); ++i) square += (a[i] - b[i]) * (a[i] - b[i]);
  return std::sqrt(square / static_cast<double>(a.size()));
}

const ModelOptions kFloat32{.activations = DType::f32, .kv_cache = DType::f32};
constexpr float kTolerance = 1e-3f;  // goldens/model: two orders of summation differ by up to 5e-5

struct GoldenCase {
  std::string checkpoint, name;
};
class TextGoldens : public testing::TestWithParam<GoldenCase> {};

TEST_P(TextGoldens, Float32LogitsAreTheReferences) {
  Loaded loaded(GetParam().checkpoint, kFloat32);
  const Golden golden(loaded.folder / "goldens" / (GetParam().name + ".safetensors"));
  EXPECT_LT(max_difference(loaded.run(golden.ids("input_ids"), 512), golden.floats("logits_fp32")), kTolerance);
}

INSTANTIATE_TEST_SUITE_P(Tiny, TextGoldens,
                         testing::Values(GoldenCase{"model/tiny", "text_1"}, GoldenCase{"model/tiny", "text_5"}, GoldenCase{"model/tiny", "text_200"},
                                         GoldenCase{"model/tiny", "decode"}, GoldenCase{"model/tiny", "trace"}));
INSTANTIATE_TEST_SUITE_P(RealHeadSizes, TextGoldens,
                         testing::Values(GoldenCase{"model/tiny-realdims", "text_1"}, GoldenCase{"model/tiny-realdims", "text_5"},
                                         GoldenCase{"model/tiny-realdims", "text_130"}, GoldenCase{"model/tiny-realdims", "decode"}, GoldenCase{"model/tiny-realdims", "trace"}));

class Checkpoints : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(All, Checkpoints, testing::Values("model/tiny", "model/tiny-realdims"));

TEST_P(Checkpoints, GreedyContinuationsInFloat32AreTheReferences) {
  Loaded loaded(GetParam(), kFloat32);
  const Golden golden(loaded.folder / "goldens/greedy.safetensors");
  const GenerationConfig generation = read_generation_config(loaded.folder, loaded.config);
  const std::vector<int32_t> want = golden.ids("ids_fp32");
  std::vector<int32_t> input = golden.ids("prompt_ids"), got;
  int32_t position = 0;
  while (got.size() < want.size()) {
    std::vector<float> logits = loaded.step({{input, position, 0}});
    position += static_cast<int32_t>(input.size());
    const auto last = logits.end() - loaded.config.vocab_size;
    for (const int32_t id : generation.suppress_tokens) last[id] = -INFINITY;
    got.push_back(static_cast<int32_t>(std::max_element(last, logits.end()) - last));
    input = {got.back()};
  }
  EXPECT_EQ(got, want);
}

TEST_P(Checkpoints, SequencesOfOneStepGiveTheReferencesLogits) {
  Loaded loaded(GetParam(), kFloat32);
  const Golden golden(loaded.folder / "goldens/ragged.safetensors");
  EXPECT_LT(max_difference(loaded.run_ragged(golden), golden.floats("logits_fp32")), kTolerance);
}

class OnDevices : public testing::TestWithParam<std::tuple<std::string, std::string>> {};
INSTANTIATE_TEST_SUITE_P(All, OnDevices, testing::Combine(testing::Values("model/tiny", "model/tiny-realdims"), testing::ValuesIn(devices())));

TEST_P(OnDevices, StepByStepAndAnyChunksGiveTheBitsOfOnePrefill) {
  const auto& [checkpoint, device] = GetParam();
  for (const DType cache : {DType::bf16, DType::e4m3}) {
    Loaded loaded(checkpoint, {.activations = DType::bf16, .kv_cache = cache}, backend_on(device));
    const std::vector<int32_t> ids = Golden(loaded.folder / "goldens/decode.safetensors").ids("input_ids");
    const std::vector<float> whole = loaded.run(ids, 512);
    for (const size_t chunk : {1, 7, 16, 33}) {
      const std::vector<float> cut = loaded.run(ids, chunk);
      EXPECT_EQ(std::memcmp(cut.data(), whole.data(), whole.size() * 4), 0) << "chunks of " << chunk;
    }
  }
}

LogitsDistance own_of_bf16(const std::filesystem::path& goldens, const std::string& name) {
  const auto own = nlohmann::json::parse(read_file(goldens / "manifest.json"))["cases"][name]["bf16_vs_fp32"];
  return {.rms = own["rms"], .kl_mean = own["kl_mean"], .kl_max = own["kl_max"]};
}

TEST_P(OnDevices, Bf16StaysAsCloseToFloat32AsTheReferencesOwnBf16Run) {
  const auto& [checkpoint, device] = GetParam();
  Loaded loaded(checkpoint, {.activations = DType::bf16, .kv_cache = DType::bf16}, backend_on(device));
  const std::filesystem::path goldens = loaded.folder / "goldens";
  for (const std::string name : {"text_1", "text_5", checkpoint == "model/tiny" ? "text_200" : "text_130", "decode", "ragged"}) {
    const Golden golden(goldens / (name + ".safetensors"));
    const std::vector<float> got = name == "ragged" ? loaded.run_ragged(golden) : loaded.run(golden.ids("input_ids"), 512);
    expect_near_as_the_references_bf16(logits_distance(golden.floats("logits_fp32"), got, static_cast<size_t>(loaded.config.vocab_size)), own_of_bf16(goldens, name), name + " on " + device);
  }
}

struct QuantCase {
  std::string checkpoint, goldens, weights;
};
class QuantizedGoldens : public testing::TestWithParam<QuantCase> {};

TEST_P(QuantizedGoldens, WeightOnlyLogitsAreTheReferences) {
  Loaded loaded(GetParam().checkpoint, kFloat32);
  const Golden golden(test_data(GetParam().goldens));
  EXPECT_LT(max_difference(loaded.run(golden.ids("test_ids"), 512), golden.floats("logits_" + GetParam().weights + "_weights")), kTolerance);
}

INSTANTIATE_TEST_SUITE_P(All, QuantizedGoldens,
                         testing::Values(QuantCase{"quant/seed0/base", "quant/seed0/goldens.safetensors", "bf16"},
                                         QuantCase{"quant/seed0/nvfp4_mse", "quant/seed0/goldens.safetensors", "nvfp4_mse"},
                                         QuantCase{"quant/seed1/fp8_max", "quant/seed1/goldens.safetensors", "fp8_max"},
                                         QuantCase{"quant/seed2/nvfp4_mse", "quant/seed2/goldens.safetensors", "nvfp4_mse"}, QuantCase{"quant/seed1/base", "quant/seed1/goldens.safetensors", "bf16"},
                                         QuantCase{"quant/seed3/fp8_mse", "quant/seed3/goldens.safetensors", "fp8_mse"}));

// One activation on a rounding border, rounded the other way, moves logits by some hundredths; everything else would move them by far more.
TEST(ActivationQuantModel, LogitsAreTheReferences) {
  for (const std::string seed : {"seed0", "seed2"}) {
    Loaded loaded("quant/" + seed + "/nvfp4_mse", {.activations = DType::f32, .kv_cache = DType::f32, .activation_quant = ActivationQuant::nvfp4});
    const Golden golden(test_data("quant/" + seed + "/goldens.safetensors"));
    const std::vector<float> got = loaded.run(golden.ids("test_ids"), 512);
    EXPECT_LT(max_difference(got, golden.floats("logits_nvfp4_mse_w4a4")), 0.03f) << seed;
    EXPECT_GT(max_difference(got, golden.floats("logits_nvfp4_mse_weights")), 0.1f) << seed << ": the activations were not rounded";
  }
}

// In bf16 some activations lie on the other side of a rounding border, and each such step moves borders in the layers behind it: after a few layers of random weights the roundings of a right
// engine have little in common with the reference's. So one layer at a time, each as a model of its own, and the measure is how much of the roundings' error is not the reference's: the error's
// share along the way from the reference with rounded activations to the one with plain ones. It is 0 where all round alike, 1 where they do not round, and between them where other borders
// decide. A scale that is wrong by one part in a hundred is the mistake to be told; what it does in float32 is measured here, and half of that decides.
TEST(ActivationQuantModel, EachLayerInBf16RoundsAsTheReferenceDoes) {
  constexpr int kPrompts = 80, kTokens = 10;
  for (const std::string seed : {"seed0", "seed2"}) {
    for (size_t layer = 0; layer < 6; ++layer) {
      const auto run = [&](DType dtype, ActivationQuant activations, float factor, const std::string& device) {
        const auto edit = [&](ModelConfig& config, ModelWeights& weights) {
          weights.layers = {std::move(weights.layers.at(layer))};
          config.layers = {config.layers.at(layer)};
          for (LinearWeight* w : {&weights.layers[0].gate, &weights.layers[0].up, &weights.layers[0].down}) std::get<Nvfp4Weight>(*w).input_scale *= factor;
        };
        Loaded loaded("quant/" + seed + "/nvfp4_mse", {.activations = dtype, .kv_cache = dtype, .activation_quant = activations}, backend_on(device), edit);
        std::vector<float> logits;
        for (int p = 0; p < kPrompts; ++p) {
          std::vector<int32_t> ids;
          for (int i = 0; i < kTokens; ++i) ids.push_back(3 + (p * 977 + i * 131 + p * i * 17) % 480);
          const std::vector<float> part = loaded.run(ids, 512);
          logits.insert(logits.end(), part.begin(), part.end());
        }
        return logits;
      };
      const std::vector<float> want = run(DType::f32, ActivationQuant::nvfp4, 1, "cpu"), plain = run(DType::f32, ActivationQuant::none, 1, "cpu");
      const auto share = [&](const std::vector<float>& got) {
        double along = 0, whole = 0;
        for (size_t i = 0; i < want.size(); ++i) {
          along += double{got[i] - want[i]} * (plain[i] - want[i]);
          whole += double{plain[i] - want[i]} * (plain[i] - want[i]);
        }
        return along / whole;
      };
      const double limit = 0.5 * share(run(DType::f32, ActivationQuant::nvfp4, 1.01f, "cpu"));
      for (const std::string& device : devices()) {
        const std::string where = seed + ", layer " + std::to_string(layer) + " on " + device;
        const double right = share(run(DType::bf16, ActivationQuant::nvfp4, 1, device));
        EXPECT_LT(right, limit) << where;
        EXPECT_GT(share(run(DType::bf16, ActivationQuant::nvfp4, 1.01f, device)), limit) << where << ", the scale wrong by a hundredth";
        EXPECT_GT(share(run(DType::bf16, ActivationQuant::none, 1, device)), 0.9) << where << ", activations as they are";
        RecordProperty(device + "_" + seed + "_" + std::to_string(layer), fmt::format("{:.3f} of {:.3f}", right, limit));
      }
    }
  }
}

// Where there is a GPU: its logits are the CPU's, in every format, but for the rounding of queries and probabilities to bf16. Both stand equally far from f32.
TEST_P(QuantizedGoldens, TheGpuStaysAsCloseToFloat32AsTheCpu) {
  const Golden golden(test_data(GetParam().goldens));
  const std::vector<float> want = golden.floats("logits_" + GetParam().weights + "_weights");
  std::map<std::string, double> rms;
  for (const std::string& device : devices()) {
    Loaded loaded(GetParam().checkpoint, {.activations = DType::bf16, .kv_cache = DType::bf16}, backend_on(device));
    std::vector<float> got;
    try {
      got = loaded.run(golden.ids("test_ids"), 512);
    } catch (const Error& error) {
      if (error.code == ErrorCode::unsupported) GTEST_SKIP() << error.message;
      throw;
    }
    rms[device] = root_mean_square(got, want);
  }
  if (!rms.contains("cuda")) GTEST_SKIP() << "no GPU that this build runs on";
  EXPECT_LT(rms["cuda"], 2 * rms["cpu"]);
  EXPECT_GT(rms["cuda"], 0);
}

// A recorded step is the step.
TEST(Cuda, RecordedStepsGiveTheBitsOfUnrecordedOnes) {
  if (devices().size() == 1) GTEST_SKIP() << "no GPU that this build runs on";
  std::vector<std::vector<float>> all;
  for (const bool record : {false, true}) {
    Loaded loaded("model/tiny-realdims", {.activations = DType::bf16, .kv_cache = DType::e4m3}, backend_on("cuda", record));
    all.push_back(loaded.run(Golden(loaded.folder / "goldens/decode.safetensors").ids("input_ids"), 3));
    all.push_back(loaded.run(Golden(loaded.folder / "goldens/decode.safetensors").ids("input_ids"), 3));
  }
  for (const auto& logits : all) EXPECT_EQ(std::memcmp(logits.data(), all[0].data(), logits.size() * 4), 0);
}
}  // namespace
}  // namespace nibble
