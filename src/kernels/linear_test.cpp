#include "kernels/linear.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "base/number_formats.h"
#include "base/rng.h"
#include "base/thread_pool.h"
#include "kernels/cpu/cpu_features.h"
#include "kernels/cpu/packed_linear.h"

namespace nibble {
namespace {
// Random numbers as a function of their index.
struct Random {
  uint64_t seed;
  uint32_t counter = 0;
  uint32_t bits() { return philox4x32({counter++, 0, 0, 0}, seed)[0]; }
  float symmetric() { return uniform_float(bits()) * 2.0f - 1.0f; }
};

enum class Format { bf16, nvfp4, fp8 };

// A random weight with its memory.
struct OwnedWeight {
  std::vector<uint8_t> codes, block_scales;
  std::vector<bf16> plain;
  std::vector<float> scales;
  LinearWeight weight;

  OwnedWeight(Format format, int64_t n, int64_t k, uint64_t seed) {
    Random random{seed};
    if (format == Format::bf16) {
      for (int64_t i = 0; i < n * k; ++i) plain.push_back(to_bf16(random.symmetric()));
      weight = Bf16Weight{{plain.data(), DType::bf16, {n, k}}};
    } else if (format == Format::nvfp4) {
      for (int64_t i = 0; i < n * k / 2; ++i) codes.push_back(static_cast<uint8_t>(random.bits()));
      for (int64_t i = 0; i < n * k / 16; ++i) block_scales.push_back(static_cast<uint8_t>(1 + random.bits() % 126));  // every positive code, subnormals too
      weight = Nvfp4Weight{{codes.data(), DType::u8, {n, k / 2}}, {block_scales.data(), DType::e4m3, {n, k / 16}}, 0.01f, 0.0f};
    } else {
      const int64_t rows = (n + 127) / 128, cols = (k + 127) / 128;
      for (int64_t i = 0; i < n * k; ++i) {
        const uint8_t code = static_cast<uint8_t>(random.bits());
        codes.push_back((code & 127) == 127 ? 0 : code);
      }
      for (int64_t i = 0; i < rows * cols; ++i) scales.push_back(0.001f + uniform_float(random.bits()));
      weight = Fp8BlockWeight{{codes.data(), DType::e4m3, {n, k}}, {scales.data(), DType::f32, {rows, cols}}};
    }
  }
};

std::vector<bf16> random_rows(int64_t count, uint64_t seed) {
  Random random{seed};
  std::vector<bf16> x;
  for (int64_t i = 0; i < count; ++i) x.push_back(to_bf16(random.symmetric()));
  return x;
}

struct Case {
  Format format;
  int64_t n, k;
};

class LinearShapes : public testing::TestWithParam<Case> {};

// Two orders of a K-term f32 sum differ by at most K * eps * sum|a_i b_i|; vdpbf16ps also flushes subnormal products, far below that.
TEST_P(LinearShapes, PackedAgreesWithThePlainTwinWithinTheBoundOfTwoSummationOrders) {
  const auto [format, n, k] = GetParam();
  ThreadPool threads(2);
  const OwnedWeight owned(format, n, k, 7);
  const auto packed = cpu::pack_linear(owned.weight, ActivationQuant::none, threads);
  for (const int64_t rows : {1, 3, 9, 14}) {
    std::vector<bf16> x = random_rows(rows * k, 11), magnitude(x);
    for (bf16& v : magnitude) v.bits &= 0x7fff;
    std::vector<float> got(static_cast<size_t>(rows * n)), want(got), got_f32(got), x_f32;
    for (const bf16 v : x) x_f32.push_back(to_float(v));
    const Tensor input{x.data(), DType::bf16, {rows, k}}, input_f32{x_f32.data(), DType::f32, {rows, k}};
    cpu::run_linear(*packed, input, {got.data(), DType::f32, {rows, n}}, threads);
    cpu::run_linear(*packed, input_f32, {got_f32.data(), DType::f32, {rows, n}}, threads);
    cpu::linear_plain(input, owned.weight, {want.data(), DType::f32, {rows, n}});
    // sum |x_i| * max |w| bounds the sum of the products' magnitudes.
    const float w_max = format == Format::bf16 ? 1.0f : format == Format::nvfp4 ? 6.0f * 448.0f * 0.01f : 448.0f * 1.001f;
    for (int64_t row = 0; row < rows; ++row) {
      float x_sum = 0.0f;
      for (int64_t i = 0; i < k; ++i) x_sum += to_float(magnitude[static_cast<size_t>(row * k + i)]);
      const float bound = static_cast<float>(k) * 0x1p-23f * x_sum * w_max;
      for (int64_t j = 0; j < n; ++j) {
        ASSERT_NEAR(got[static_cast<size_t>(row * n + j)], want[static_cast<size_t>(row * n + j)], bound) << "row " << row << " output " << j;
        ASSERT_NEAR(got_f32[static_cast<size_t>(row * n + j)], want[static_cast<size_t>(row * n + j)], bound);
      }
    }
  }
}

TEST_P(LinearShapes, ARowsBitsDependNeitherOnTheOtherRowsNorOnTheThreads) {
  const auto [format, n, k] = GetParam();
  ThreadPool one(1), three(3);
  const OwnedWeight owned(format, n, k, 3);
  const auto packed = cpu::pack_linear(owned.weight, ActivationQuant::none, one);
  constexpr int64_t kRows = 37;
  std::vector<bf16> x = random_rows(kRows * k, 5);
  std::vector<float> all(static_cast<size_t>(kRows * n)), some(all);
  cpu::run_linear(*packed, {x.data(), DType::bf16, {kRows, k}}, {all.data(), DType::f32, {kRows, n}}, three);
  for (const int64_t rows : {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13, 14, 15, 16, 17, 35}) {
    const int64_t first = kRows - rows;
    cpu::run_linear(*packed, {x.data() + first * k, DType::bf16, {rows, k}}, {some.data(), DType::f32, {rows, n}}, one);
    ASSERT_EQ(std::memcmp(some.data(), all.data() + first * n, static_cast<size_t>(rows * n) * 4), 0) << rows << " rows";
  }
}

INSTANTIATE_TEST_SUITE_P(Bf16, LinearShapes, testing::Values(Case{Format::bf16, 1, 2}, Case{Format::bf16, 65, 70}, Case{Format::bf16, 64, 256}, Case{Format::bf16, 130, 2304}));
INSTANTIATE_TEST_SUITE_P(Nvfp4, LinearShapes, testing::Values(Case{Format::nvfp4, 1, 16}, Case{Format::nvfp4, 65, 144}, Case{Format::nvfp4, 64, 256}, Case{Format::nvfp4, 130, 2304}));
INSTANTIATE_TEST_SUITE_P(Fp8, LinearShapes, testing::Values(Case{Format::fp8, 1, 16}, Case{Format::fp8, 136, 144}, Case{Format::fp8, 64, 256}, Case{Format::fp8, 130, 2304}));

// One input at a time selects a single weight: with x = 1 the output is the weight itself, so all codes are checked exactly.
TEST(LinearCodes, EveryE4m3AndE2m1CodeIsDecodedExactly) {
  ThreadPool threads(1);
  constexpr int64_t kN = 256, kK = 128;
  std::vector<uint8_t> codes(kN * kK);
  for (int64_t n = 0; n < kN; ++n) {
    for (int64_t k = 0; k < kK; ++k) codes[static_cast<size_t>(n * kK + k)] = (n & 127) == 127 ? 0 : static_cast<uint8_t>(n);
  }
  std::vector<float> scales{1.0f, 1.0f}, out(kN);
  const Fp8BlockWeight fp8{{codes.data(), DType::e4m3, {kN, kK}}, {scales.data(), DType::f32, {2, 1}}};
  const auto packed8 = cpu::pack_linear(fp8, ActivationQuant::none, threads);
  std::vector<uint8_t> nibbles(16 * kK / 2), ones(16 * kK / 16, 0x38);
  for (int64_t n = 0; n < 16; ++n) std::fill_n(nibbles.begin() + n * kK / 2, kK / 2, static_cast<uint8_t>(n | n << 4));
  const Nvfp4Weight nvfp4{{nibbles.data(), DType::u8, {16, kK / 2}}, {ones.data(), DType::e4m3, {16, kK / 16}}, 1.0f, 0.0f};
  const auto packed4 = cpu::pack_linear(nvfp4, ActivationQuant::none, threads);
  for (int64_t k = 0; k < kK; ++k) {
    std::vector<bf16> x(kK, bf16{0});
    x[static_cast<size_t>(k)] = to_bf16(1.0f);
    cpu::run_linear(*packed8, {x.data(), DType::bf16, {1, kK}}, {out.data(), DType::f32, {1, kN}}, threads);
    for (int64_t n = 0; n < kN; ++n) ASSERT_EQ(out[static_cast<size_t>(n)], to_float(e4m3{codes[static_cast<size_t>(n * kK)]})) << n;
    cpu::run_linear(*packed4, {x.data(), DType::bf16, {1, kK}}, {out.data(), DType::f32, {1, 16}}, threads);
    for (int64_t n = 0; n < 16; ++n) ASSERT_EQ(out[static_cast<size_t>(n)], e2m1_to_float(static_cast<uint8_t>(n)));
    std::vector<float> x_f32(kK, 0.0f);  // the kernels of f32 rows have decoders of their own
    x_f32[static_cast<size_t>(k)] = 1.0f;
    cpu::run_linear(*packed8, {x_f32.data(), DType::f32, {1, kK}}, {out.data(), DType::f32, {1, kN}}, threads);
    for (int64_t n = 0; n < kN; ++n) ASSERT_EQ(out[static_cast<size_t>(n)], to_float(e4m3{codes[static_cast<size_t>(n * kK)]})) << n;
    cpu::run_linear(*packed4, {x_f32.data(), DType::f32, {1, kK}}, {out.data(), DType::f32, {1, 16}}, threads);
    for (int64_t n = 0; n < 16; ++n) ASSERT_EQ(out[static_cast<size_t>(n)], e2m1_to_float(static_cast<uint8_t>(n)));
  }
}
}  // namespace
}  // namespace nibble
