// The host side of the Blackwell path: its layouts and arithmetic against the CPU's W4A4. Nothing here runs on a GPU.
#include "kernels/cuda/blackwell/w4a4.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <vector>

#include "base/number_formats.h"
#include "base/rng.h"
#include "base/thread_pool.h"
#include "kernels/cpu/packed_linear.h"

namespace nibble {
namespace {
using namespace blackwell;

TEST(BlackwellScales, EachHasAPlaceOfItsOwnAsInTheExampleOfTheFormat) {
  for (const auto& [rows, blocks] : {std::pair<int64_t, int64_t>{1, 4}, {128, 4}, {130, 9}, {300, 240}}) {
    std::set<int64_t> places;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t b = 0; b < blocks; ++b) places.insert(scale_place(r, b, blocks));
    }
    EXPECT_EQ(static_cast<int64_t>(places.size()), rows * blocks);
    EXPECT_GE(*places.begin(), 0);
    EXPECT_LT(*places.rbegin(), scale_bytes(rows, blocks));
  }
  EXPECT_EQ(scale_place(0, 1, 8), 1);
  EXPECT_EQ(scale_place(1, 0, 8), 16);
  EXPECT_EQ(scale_place(32, 0, 8), 4);
  EXPECT_EQ(scale_place(127, 3, 8), 511);
  EXPECT_EQ(scale_place(0, 4, 8), 512);
  EXPECT_EQ(scale_place(128, 0, 8), 1024);
}

TEST(BlackwellUnits, AreThoseOfItsGpusOnly) {
  for (const auto& [major, minor] : {std::pair{10, 0}, {10, 3}, {12, 0}}) EXPECT_TRUE(has_fp4_units(major, minor));
  for (const auto& [major, minor] : {std::pair{8, 9}, {9, 0}, {11, 0}, {12, 1}}) EXPECT_FALSE(has_fp4_units(major, minor));
}

// The product from codes and placed scales, added up in double as the formula says.
TEST(BlackwellProduct, FromItsOwnCodesAndScalesIsTheCpusW4A4) {
  const int64_t n = 70, k = 320, rows = 37, blocks = k / 16;
  uint32_t counter = 0;
  const auto bits = [&] { return philox4x32({counter++, 0, 0, 0}, 9)[0]; };
  std::vector<uint8_t> w_codes(static_cast<size_t>(n * k / 2)), w_scales(static_cast<size_t>(n * blocks));
  for (uint8_t& c : w_codes) c = static_cast<uint8_t>(bits());
  for (uint8_t& s : w_scales) s = static_cast<uint8_t>(bits() % 127);
  std::vector<bf16> x(static_cast<size_t>(rows * k));
  for (bf16& v : x) v = to_bf16((uniform_float(bits()) * 2 - 1) * std::exp2(static_cast<float>(bits() % 12)));
  const float tensor_scale = 0.003f, global = 0.7f;

  std::vector<uint8_t> w_placed(static_cast<size_t>(scale_bytes(n, blocks))), x_placed(static_cast<size_t>(scale_bytes(rows, blocks))), x_codes(static_cast<size_t>(rows * k / 2));
  for (int64_t r = 0; r < n; ++r) {
    for (int64_t b = 0; b < blocks; ++b) w_placed[static_cast<size_t>(scale_place(r, b, blocks))] = w_scales[static_cast<size_t>(r * blocks + b)];
  }
  for (int64_t i = 0; i < rows * blocks; ++i) {
    float values[16];
    for (int64_t j = 0; j < 16; ++j) values[j] = to_float(x[static_cast<size_t>(i * 16 + j)]);
    uint8_t codes[8];
    x_placed[static_cast<size_t>(scale_place(i / blocks, i % blocks, blocks))] =
        quantize_block(values, global, codes, [](float v) { return to_e4m3(v).bits; }, [](uint8_t code) { return to_float(e4m3{code}); });
    std::copy(std::begin(codes), std::end(codes), x_codes.begin() + i * 8);
  }

  ThreadPool threads(1);
  const LinearWeight weight = Nvfp4Weight{{w_codes.data(), DType::u8, {n, k / 2}}, {w_scales.data(), DType::e4m3, {n, blocks}}, tensor_scale, global};
  std::vector<float> want(static_cast<size_t>(rows * n));
  cpu::run_linear(*cpu::pack_linear(weight, ActivationQuant::nvfp4, threads), {x.data(), DType::bf16, {rows, k}}, {want.data(), DType::f32, {rows, n}}, threads);
  const auto nibble = [](const std::vector<uint8_t>& codes, int64_t i) { return e2m1_to_float(static_cast<uint8_t>(codes[static_cast<size_t>(i / 2)] >> (i % 2 * 4))); };
  const auto scale = [&](const std::vector<uint8_t>& placed, int64_t row, int64_t block) { return double{to_float(e4m3{placed[static_cast<size_t>(scale_place(row, block, blocks))]})}; };
  for (int64_t m = 0; m < rows; ++m) {
    for (int64_t o = 0; o < n; ++o) {
      double sum = 0, magnitude = 0;
      for (int64_t i = 0; i < k; ++i) {
        const double term = double{nibble(x_codes, m * k + i)} * nibble(w_codes, o * k + i) * scale(x_placed, m, i / 16) * scale(w_placed, o, i / 16);
        sum += term;
        magnitude += std::fabs(term);
      }
      const double factor = double{tensor_scale} * global;
      ASSERT_NEAR(want[static_cast<size_t>(m * n + o)], factor * sum, static_cast<double>(k) * 0x1p-24 * factor * magnitude + 1e-12) << m << " " << o;
    }
  }
}
}  // namespace
}  // namespace nibble
