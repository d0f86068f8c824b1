// Weights to NVFP4 and to FP8 128x128, bit for bit as docs/formats/ defines it: the work of `nibble quantize`.
//
// NVFP4: s2 = A / 2688 (times the reciprocal), one e4m3 scale per 16 inputs, code = e2m1(w / (scale * s2)).
//   max: scale = e4m3(largest |w| of the block / (6 * s2)), 1.0 for a zero block.
//   mse: the first of the 126 positive e4m3 values c, ascending, that makes sum (|w| - e2m1(|w| / s_c) * s_c)^2 smallest, s_c = (A * (c / 448)) / 6. Both
//        divisions are multiplications by the reciprocal rounded to f32, each product rounded once: so the reference's framework divides by constants on a GPU,
//        and true divisions choose another scale in a near tie now and then (5 of 1,216 blocks of the reference's vectors).
// FP8:  scale = amax / 448 (times the reciprocal), code = e4m3(w / scale).
//   max: amax = largest |w| of the block. mse: bf16(amax * m) with the first best of 39 multipliers from 0.25 to 4.
//
// Losses are summed in f64 in one fixed order, so the fast and the plain form give the same bytes, on any number of threads.
#pragma once

#include <cstdint>

#include "base/tensor.h"

namespace nibble {
inline constexpr float kReciprocal2688 = 1.0f / 2688.0f;
inline constexpr float kReciprocal448 = 1.0f / 448.0f;
inline constexpr float kReciprocal6 = 1.0f / 6.0f;

enum class ScaleSearch { max, mse };

// Squared errors against the bf16 weights, and what became of the codes.
struct QuantError {
  double weight_sq = 0, error_sq = 0, max_error_sq = 0;  // max_error_sq: of ScaleSearch::max on the same weights
  int64_t zeros = 0, saturated = 0;                      // codes
  int64_t blocks = 0, moved_blocks = 0;                  // moved: the search chose another scale than max
  void add(const QuantError& other);
};

// weight [N, K] bf16, K a multiple of 16; tensor_amax: A, at least the largest |w|. A == 0: scales 1.0, codes 0.
struct QuantizeNvfp4Args {
  Tensor weight;
  float tensor_amax = 0;
  ScaleSearch search = ScaleSearch::mse;
  Tensor codes;         // [N, K / 2] u8
  Tensor block_scales;  // [N, K / 16] e4m3
};
struct QuantizeFp8Args {
  Tensor weight;  // [N, K] bf16
  ScaleSearch search = ScaleSearch::mse;
  Tensor codes;   // [N, K] e4m3
  Tensor scales;  // [ceil(N / 128), 1, ceil(K / 128), 1] f32
};

// s_c, the scale that the search tries for an e4m3 value; 1 where that is 0.
inline float nvfp4_candidate(float e4m3_value, float tensor_amax) {
  const float s = tensor_amax * (e4m3_value * kReciprocal448) * kReciprocal6;
  return s == 0.0f ? 1.0f : s;
}

class ThreadPool;
namespace cpu {
float largest_magnitude(const Tensor& weight, ThreadPool& threads);  // [N, K] bf16; raises corrupt on NaN or infinity
void row_amax(const Tensor& x, float* largest, ThreadPool& threads);  // Backend::row_amax
float nvfp4_tensor_scale(float tensor_amax);  // s2
QuantError quantize_nvfp4(const QuantizeNvfp4Args& args, ThreadPool& threads);
QuantError quantize_fp8(const QuantizeFp8Args& args, ThreadPool& threads);

// The code of the best scale of one block of 16, by the formula: all candidates, one after the other.
uint8_t search_nvfp4_scale_plain(const uint16_t* block, float tensor_amax);
namespace avx512 {
uint8_t search_nvfp4_scale(const uint16_t* block, float tensor_amax, const float* candidates);  // the same, 16 weights at once, hopeless scales skipped
void encode_nvfp4_block(const uint16_t* block, float scale, uint8_t* codes);                    // 8 bytes
}
}  // namespace cpu
}  // namespace nibble
