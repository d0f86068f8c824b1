#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/number_formats.h"
#include "base/test_paths.h"
#include "model/model.h"
#include "model/weights.h"

namespace nibble {
namespace {
ModelConfig config_of(const std::string& name) { return parse_model_config(read_config_json(test_data(name)), name); }

float rms_of(const LinearWeight& weight) {
  const auto [n, k] = shape_of(weight);
  std::vector<float> x(static_cast<size_t>(k)), out(static_cast<size_t>(n));
  double sum = 0;
  for (int64_t i = 0; i < k; ++i) {
    std::fill(x.begin(), x.end(), 0.0f);
    x[static_cast<size_t>(i)] = 1.0f;
    cpu::linear_plain({x.data(), DType::f32, {1, k}}, weight, {out.data(), DType::f32, {1, n}});
    for (const float w : out) sum += double{w} * w;
  }
  return static_cast<float>(std::sqrt(sum / static_cast<double>(n * k)));
}

class DummyWeights : public testing::TestWithParam<QuantAlgo> {};
INSTANTIATE_TEST_SUITE_P(Formats, DummyWeights, testing::Values(QuantAlgo::none, QuantAlgo::nvfp4, QuantAlgo::fp8_block),
                         [](const auto& info) { return info.param == QuantAlgo::none ? "Bf16" : info.param == QuantAlgo::nvfp4 ? "Nvfp4" : "Fp8Block"; });

TEST_P(DummyWeights, SeedDecidesEveryByte) {
  const ModelConfig config = config_of("model/tiny");
  const QuantConfig quant{.algo = GetParam(), .algo_name = "", .kv_cache_fp8 = false, .excluded = {"lm_head", "q_proj"}, .source = "test"};
  const ModelWeights a = ModelWeights::dummy(config, quant, 7), b = ModelWeights::dummy(config, quant, 7), c = ModelWeights::dummy(config, quant, 8);
  EXPECT_EQ(std::memcmp(a.embed.data, b.embed.data, static_cast<size_t>(a.embed.bytes())), 0);
  EXPECT_NE(std::memcmp(a.embed.data, c.embed.data, static_cast<size_t>(a.embed.bytes())), 0);
  EXPECT_EQ(a.layers[0].gate.index(), static_cast<size_t>(GetParam()));
  EXPECT_TRUE(std::holds_alternative<Bf16Weight>(a.layers[0].q)) << "excluded by a pattern";
  validate(a.layers[0].gate);
  validate(a.layers[5].o);
}

TEST_P(DummyWeights, MatricesAreScaledByTheirInputs) {
  const ModelConfig config = config_of("model/tiny");
  const ModelWeights w = ModelWeights::dummy(config, {.algo = GetParam(), .algo_name = "", .kv_cache_fp8 = false, .excluded = {}, .source = "test"}, 1);
  for (const LinearWeight* linear : {&w.layers[0].q, &w.layers[3].down}) {
    const float wanted = 1.0f / std::sqrt(static_cast<float>(shape_of(*linear).in_features)), found = rms_of(*linear);
    EXPECT_GT(found, wanted / 1.5f);
    EXPECT_LT(found, wanted * 1.5f);
  }
}

TEST_P(DummyWeights, LogitsAreFiniteAndSpread) {
  const ModelConfig config = config_of("model/tiny");
  const ModelWeights weights = ModelWeights::dummy(config, {.algo = GetParam(), .algo_name = "", .kv_cache_fp8 = false, .excluded = {}, .source = "test"}, 3);
  const auto backend = make_cpu_backend({.num_threads = 1});
  Gemma4Model model(config, weights, {.num_full_pages = 1, .num_sliding_pages = 1}, *backend);
  const std::vector<int32_t> ids{2, 17, 40, 300}, pages{0}, rows{0, 1, 2, 3};
  const SequenceSlice slice{0, 4, 0, pages, pages};
  std::vector<float> logits(4 * static_cast<size_t>(config.vocab_size));
  model.forward({ids, {&slice, 1}, rows}, logits.data());
  double sum_sq = 0;
  for (const float x : logits) {
    ASSERT_TRUE(std::isfinite(x));
    ASSERT_LT(std::fabs(x), 29.0f) << "far from the soft cap";
    sum_sq += double{x} * x;
  }
  const double rms = std::sqrt(sum_sq / static_cast<double>(logits.size()));
  EXPECT_GT(rms, 0.3);
  EXPECT_LT(rms, 10.0);
}

TEST(DummyWeightsMemory, WhatDoesNotFitIsRefusedBeforeItIsTouched) {
  ModelConfig config = config_of("model/shapes-12b");
  config.vocab_size = 2'000'000'000;
  try {
    ModelWeights::dummy(config, {}, 1);
    FAIL() << "15 TB of weights";
  } catch (const Error& error) {
    EXPECT_EQ(error.code, ErrorCode::out_of_memory);
    EXPECT_TRUE(error.message.starts_with("--load-format dummy: the weights take 153")) << error.message;
  }
}
}  // namespace
}  // namespace nibble
