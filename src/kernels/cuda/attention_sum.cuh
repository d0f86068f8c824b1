// What the attention kernels share, so that they agree to the bit: which keys a row sees, how stored values widen, and how splits are folded.
#pragma once

#include <cuda_fp8.h>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/device_code.cuh"

namespace nibble::cuda {
// The keys first .. last that a row sees; none if first > last.
struct VisibleKeys {
  int first, last;
  __device__ bool operator()(int key) const { return key >= first && key <= last; }
};
__device__ __forceinline__ VisibleKeys visible_keys(const Attention& a, const AttentionTile& tile, int token) {
  if (token >= tile.rows) return {1, 0};
  const int position = tile.first_position + token;
  return {a.window > 0 ? max(0, position - a.window + 1) : 0, a.last_visible ? a.last_visible[tile.first_row + token] : position};
}
// The last key that a tile's rows see: what a row sees ends no earlier than what the row before it sees. Tiles that pad see none.
__device__ __forceinline__ int last_visible_key(const Attention& a, const AttentionTile& tile) {
  return a.last_visible && tile.rows > 0 ? a.last_visible[tile.first_row + tile.rows - 1] : tile.first_position + tile.rows - 1;
}

// Eight values of a page, as they lie there; zeros at first.
template <bool kE4m3>
struct Raw {
  uint4 bits{};
  __device__ void load(const void* pages, int64_t at) { bits = *reinterpret_cast<const uint4*>(static_cast<const __nv_bfloat16*>(pages) + at); }
  __device__ uint4 widen() const { return bits; }
};
template <>
struct Raw<true> {
  uint2 codes{};
  __device__ void load(const void* pages, int64_t at) { codes = *reinterpret_cast<const uint2*>(static_cast<const uint8_t*>(pages) + at); }
  // E4M3 bits at a bf16's 15 and 10..4 are the value times 2^-120.
  __device__ static uint32_t widen_two(uint32_t high_bytes) { return multiply_bf16x2((high_bytes & 0x80008000u) | ((high_bytes >> 4) & 0x07F007F0u), 0x7B807B80u); }
  __device__ uint4 widen() const {
    return make_uint4(widen_two(__byte_perm(codes.x, 0, 0x1404)), widen_two(__byte_perm(codes.x, 0, 0x3424)), widen_two(__byte_perm(codes.y, 0, 0x1404)), widen_two(__byte_perm(codes.y, 0, 0x3424)));
  }
};

// What is subtracted from scores before e^x; where nothing was seen yet (-inf) any number does, every weight is 0.
__device__ __forceinline__ float finite_base(float maximum) { return maximum == -INFINITY ? 0.0f : maximum; }

// A split's maximum m and its weight beside what was folded before it, whose maximum is M.
struct Fold {
  float earlier, weight;
  __device__ Fold(float& M, float m) {
    const float next = fmaxf(M, m), base = finite_base(next);
    earlier = M == -INFINITY ? 0.0f : __expf(M - base);
    weight = m == -INFINITY ? 0.0f : __expf(m - base);
    M = next;
  }
  __device__ float operator()(float folded, float x) const { return __fmaf_rn(folded, earlier, __fmul_rn(x, weight)); }
};
}  // namespace nibble::cuda
