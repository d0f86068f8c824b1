// A row's query, key or value of one head, normed and rotated, in a warp's registers. Roundings are spelled out: every kernel that makes one makes the same bits.
#pragma once

#include <cuda_fp8.h>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/device_code.cuh"

namespace nibble::cuda {
__device__ __forceinline__ __nv_fp8_storage_t to_e4m3(float x) { return __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3); }
// The number of the row of a key or value among all rows of the pages.
__device__ __forceinline__ int64_t page_row(int slot, int kv_heads, int kv_head) { return (int64_t{slot / kPagePositions} * kv_heads + kv_head) * kPagePositions + slot % kPagePositions; }

template <int kDim>
struct PreparedHead {
  static constexpr int kPer = kDim < 32 ? 1 : kDim / 32;
  float x[kPer];  // channel j * 32 + lane, so that the halves of a rotated pair meet in one lane

  // job: one of a.heads queries, then of a.kv_heads keys, then values.
  template <int kSlices>
  __device__ __forceinline__ void make(const QkvPrepare& a, int row, int job, int lane) {
    const bool is_q = job < a.heads, is_v = job >= a.heads + a.kv_heads;
    const int head = is_q ? job : is_v ? job - a.heads - a.kv_heads : job - a.heads, heads = is_q ? a.heads : a.kv_heads;
    const float* const from = (is_q ? a.q : is_v ? a.v : a.k) + (int64_t{row} * heads + head) * kDim;
    const int64_t stride = is_q ? a.q_stride : is_v ? a.v_stride : a.k_stride;
    float squares = 0.0f;
#pragma unroll
    for (int j = 0; j < kPer; ++j) {
      float parts[kSlices];
#pragma unroll
      for (int s = 0; s < kSlices; ++s) parts[s] = kDim >= 32 || lane < kDim ? from[s * stride + j * 32 + lane] : 0.0f;
      x[j] = parts[0];
#pragma unroll
      for (int s = 1; s < kSlices; ++s) x[j] += parts[s];
      squares = __fmaf_rn(x[j], x[j], squares);
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) squares += __shfl_xor_sync(0xffffffffu, squares, offset);
    const float inverse = rsqrtf(__fadd_rn(__fdiv_rn(squares, kDim), a.eps));
    const __nv_bfloat16* const weight = is_q ? a.q_norm : a.k_norm;
#pragma unroll
    for (int j = 0; j < kPer; ++j) {
      if (kDim < 32 && lane >= kDim) break;
      x[j] = __fmul_rn(x[j], is_v ? inverse : __fmul_rn(inverse, __bfloat162float(weight[j * 32 + lane])));
    }
    if (!is_v) rotate(a, row, lane);
  }

 private:
  __device__ __forceinline__ void rotate(const QkvPrepare& a, int row, int lane) {
    if constexpr (kPer >= 2) {
#pragma unroll
      for (int j = 0; j < kPer / 2; ++j) {
        const int pair = j * 32 + lane;
        if (pair >= a.pairs) continue;
        const float c = a.cos[int64_t{row} * a.pairs + pair], s = a.sin[int64_t{row} * a.pairs + pair];
        const float low = x[j], high = x[j + kPer / 2];
        x[j] = __fmaf_rn(low, c, -__fmul_rn(high, s));
        x[j + kPer / 2] = __fmaf_rn(high, c, __fmul_rn(low, s));
      }
    } else {  // 16 or 32 channels: the other half of a pair is half as many lanes away
      constexpr int kHalf = kDim / 2;
      const float other = __shfl_xor_sync(0xffffffffu, x[0], kHalf);
      const int pair = lane % kHalf;
      if (pair < a.pairs) {
        const float c = a.cos[int64_t{row} * a.pairs + pair], s = a.sin[int64_t{row} * a.pairs + pair];
        x[0] = lane < kHalf ? __fmaf_rn(x[0], c, -__fmul_rn(other, s)) : __fmaf_rn(x[0], c, __fmul_rn(other, s));
      }
    }
  }
};
}  // namespace nibble::cuda
