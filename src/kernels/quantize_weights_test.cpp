// The weight quantizer against the stored results of the reference quantizer, and its fast form against the plain one.
#include "kernels/quantize_weights.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "base/number_formats.h"
#include "base/thread_pool.h"
#include "kernels/cpu/cpu_features.h"

namespace nibble {
namespace {
std::vector<uint16_t> row_of(std::initializer_list<float> values) {
  std::vector<uint16_t> out;
  for (float v : values) out.push_back(to_bf16(v).bits);
  return out;
}

struct Nvfp4Result {
  std::vector<uint8_t> codes, scales;
  QuantError error;
};

Nvfp4Result quantize(std::vector<uint16_t>& w, int64_t rows, int64_t cols, ScaleSearch search, int num_threads = 1) {
  ThreadPool threads(num_threads);
  const Tensor weight{w.data(), DType::bf16, {rows, cols}};
  Nvfp4Result out{std::vector<uint8_t>(w.size() / 2), std::vector<uint8_t>(w.size() / 16), {}};
  out.error = cpu::quantize_nvfp4({weight, cpu::largest_magnitude(weight, threads), search, {out.codes.data(), DType::u8, {rows, cols / 2}}, {out.scales.data(), DType::e4m3, {rows, cols / 16}}}, threads);
  return out;
}

std::vector<uint16_t> example() {  // the worked example of docs/formats/nvfp4.md
  return row_of({0.0625f, -0.125f, 0.25f, -0.3125f, 0.375f, 0.4375f, -0.5f, 0.5625f, 0.625f, -0.6875f, 0.75f, 0.8125f, -0.875f, 0.9375f, 1.0f, -1.125f,
                 0.01f, -0.02f, 0.03f, -0.04f, 0.05f, -0.06f, 0.07f, -0.08f, 0.09f, -0.1f, 0.11f, -0.12f, 0.13f, -0.14f, 0.15f, -0.16f,
                 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                 2.625f, -2.5f, 0.001f, -0.001f, 0.2f, -0.3f, 0.4f, -0.6f, 1.0f, -1.2f, 1.4f, -1.6f, 1.8f, -2.0f, 2.2f, -2.4f});
}

TEST(QuantizeNvfp4, WorkedExampleWithMax) {
  auto w = example();
  const auto got = quantize(w, 2, 32, ScaleSearch::max);
  EXPECT_EQ(got.scales, (std::vector<uint8_t>{0x74, 0x5e, 0x38, 0x7e}));
  EXPECT_EQ(got.codes, (std::vector<uint8_t>{0x91, 0xb3, 0x44, 0x5d, 0xe5, 0x66, 0x6e, 0xf7, 0x91, 0xb2, 0xc4, 0xd5, 0xe5, 0xe6, 0xf6, 0xf7,
                                             0, 0, 0, 0, 0, 0, 0, 0, 0xf7, 0x80, 0x91, 0xb2, 0xd4, 0xe5, 0xe6, 0xf7}));
}

TEST(QuantizeNvfp4, WorkedExampleWithMse) {
  auto w = example();
  const auto got = quantize(w, 2, 32, ScaleSearch::mse);
  EXPECT_EQ(got.scales, (std::vector<uint8_t>{0x79, 0x62, 0x01, 0x7d}));
  EXPECT_EQ(got.codes, (std::vector<uint8_t>{0x90, 0xa2, 0x33, 0x4c, 0xc4, 0x55, 0x5d, 0xe6, 0x91, 0xa2, 0xb3, 0xc4, 0xd4, 0xd5, 0xe5, 0xe6,
                                             0, 0, 0, 0, 0, 0, 0, 0, 0xf7, 0x80, 0x91, 0xb2, 0xd4, 0xe5, 0xe6, 0xf7}));
  EXPECT_LT(got.error.error_sq, got.error.max_error_sq);
}

TEST(QuantizeNvfp4, ZeroMatrixHasUnitScales) {
  std::vector<uint16_t> w(64, 0);
  const auto got = quantize(w, 2, 32, ScaleSearch::mse);
  EXPECT_EQ(got.scales, std::vector<uint8_t>(4, 0x38));
  EXPECT_EQ(got.codes, std::vector<uint8_t>(32, 0));
  EXPECT_EQ(cpu::nvfp4_tensor_scale(0.0f), 1.0f);
}

TEST(QuantizeNvfp4, SkippingSearchAndFastEncoderEqualThePlainOnes) {
  if (cpu::best_isa() < cpu::Isa::avx512) GTEST_SKIP() << "no AVX-512 here";
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  for (int trial = 0; trial < 3000; ++trial) {
    const float spread = std::ldexp(1.0f, -static_cast<int>(random() % 12));
    std::vector<uint16_t> w(16);
    float largest = 0;
    for (auto& x : w) {
      float v = normal(random) * spread;
      if (trial % 3 == 1) v = std::round(v * 16 / spread) * spread / 16;  // many ties
      if (trial % 5 == 2) v = v * v * v / (spread * spread);             // heavy tails
      x = to_bf16(v).bits;
      largest = std::max(largest, std::fabs(to_float(bf16{x})));
    }
    const float amax = std::max(largest, trial % 2 ? 3.5f : largest);
    if (amax == 0) continue;
    float candidates[127] = {};
    for (int c = 1; c <= 126; ++c) candidates[c] = nvfp4_candidate(to_float(e4m3{static_cast<uint8_t>(c)}), amax);
    const uint8_t code = cpu::search_nvfp4_scale_plain(w.data(), amax);
    ASSERT_EQ(cpu::avx512::search_nvfp4_scale(w.data(), amax, candidates), code) << trial;
    uint8_t codes[8];
    const float scale = to_float(e4m3{code}) * (amax * kReciprocal2688);
    cpu::avx512::encode_nvfp4_block(w.data(), scale, codes);
    for (int i = 0; i < 16; ++i) ASSERT_EQ(codes[i / 2] >> (i % 2 * 4) & 15, to_e2m1(to_float(bf16{w[static_cast<size_t>(i)]}) / scale)) << trial << " " << i;
  }
}

TEST(QuantizeFp8, BlockOfAmaxOne) {
  std::vector<uint16_t> w = row_of({1.0f, 0.5f, -0.3f, 0.0f});
  std::vector<uint8_t> codes(4);
  float scale = 0;
  ThreadPool threads(1);
  cpu::quantize_fp8({{w.data(), DType::bf16, {1, 4}}, ScaleSearch::max, {codes.data(), DType::e4m3, {1, 4}}, {&scale, DType::f32, {1, 1, 1, 1}}}, threads);
  EXPECT_EQ(scale, kReciprocal448);
  EXPECT_EQ(codes, (std::vector<uint8_t>{0x7e, 0x76, 0xf0, 0x00}));
}
TEST(RowAmax, MagnitudesOfBothTypesAndNanStays) {
  ThreadPool threads(2);
  float x[2][3] = {{1.5f, -2.0f, 0.0f}, {-0.0f, 0.0f, 0.25f}}, found[2];
  cpu::row_amax({x, DType::f32, {2, 3}}, found, threads);
  EXPECT_EQ(found[0], 2.0f);
  EXPECT_EQ(found[1], 0.25f);
  std::vector<uint16_t> y = row_of({-3.0f, 1.0f, 0.5f, -0.5f});
  cpu::row_amax({y.data(), DType::bf16, {2, 2}}, found, threads);
  EXPECT_EQ(found[0], 3.0f);
  EXPECT_EQ(found[1], 0.5f);
  x[0][2] = NAN;
  cpu::row_amax({x, DType::f32, {2, 3}}, found, threads);
  EXPECT_TRUE(std::isnan(found[0]));
}
}  // namespace
}  // namespace nibble
