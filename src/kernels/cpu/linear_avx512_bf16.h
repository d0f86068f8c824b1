// Packing and kernels of the avx512_bf16 linear layers; see packed_linear.h for the layouts. Callable only where the processor has the set.
#pragma once

#include <cstdint>

#include "base/thread_pool.h"
#include "kernels/linear.h"

namespace nibble::cpu::avx512_bf16 {
inline constexpr int64_t kGroup = 64;  // outputs packed together

struct Packed {
  enum class Format { bf16, fp8, nvfp4 } format;
  int64_t out_features, in_features;
  int64_t padded_in;         // a multiple of 128 for FP8, 16 for NVFP4, 2 for BF16; the padding is zero
  int64_t group_bytes;       // one group of 64 outputs
  const uint8_t* data;       // [ceil(N / 64)][group_bytes]
  const float* fp8_scales;   // [ceil(N / 128), ceil(K / 128)]
  int64_t fp8_scale_cols;
  float output_scale;        // NVFP4: the tensor scale
};

// Sizes only; `data` is filled by pack().
Packed plan(const LinearWeight& weight);
void pack(const LinearWeight& weight, const Packed& plan, uint8_t* data, ThreadPool& threads);

// x [rows, padded_in] bf16 with zeros in the padding, out [rows, N] f32.
void run(const Packed& weight, const uint16_t* x, int64_t rows, float output_scale, float* out, ThreadPool& threads);
// For the roofs: reads every byte once; forms products in registers only.
void touch(const uint8_t* memory, int64_t bytes);
void spin(int64_t rounds);
constexpr int64_t flops_of_spin(int64_t rounds) { return rounds * 16 * 64; }  // sixteen chains of 16 lanes, two multiply-adds each
}  // namespace nibble::cpu::avx512_bf16
