// From packed units to fragments: a lane's part of one k16, as four registers of two bf16 each.
#pragma once

#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/packed_weight.h"

namespace nibble::cuda {
// E2M1 bits moved to a bf16's sign (15) and lowest exponent and highest mantissa bits (8..6) read as the value times 2^-126, subnormals included;
// the scale's bits are times 2^107: the product is the exact value times 2^-19, and PackedWeight::factor takes that back.
__device__ __forceinline__ void unpack_nvfp4(uint32_t word, __nv_bfloat162 scale_g, __nv_bfloat162 scale_g8, uint32_t (&a)[4]) {
  constexpr uint32_t kSign = 0x80008000u, kMagnitude = 0x01C001C0u;
  const auto times = [](uint32_t x, __nv_bfloat162 scale) {
    const __nv_bfloat162 product = __hmul2(reinterpret_cast<const __nv_bfloat162&>(x), scale);
    return reinterpret_cast<const uint32_t&>(product);
  };
  a[0] = times(word & (kSign | kMagnitude), scale_g);
  a[1] = times((word << 3) & (kSign | kMagnitude), scale_g8);
  a[2] = times(((word << 6) & kMagnitude) | ((word << 1) & kSign), scale_g);
  a[3] = times(((word >> 3) & kMagnitude) | ((word << 2) & kSign), scale_g8);
}
// Two k16: `scales` holds the codes of (g, g + 8) of the first, then of the second. A code's bits under the exponent 111xxxxx are the scale times 2^107;
// the multiplication takes either half for both of its lanes.
__device__ __forceinline__ void unpack_nvfp4_two(uint32_t word0, uint32_t word1, uint32_t scales, uint32_t (&a0)[4], uint32_t (&a1)[4]) {
  const uint32_t even = ((scales << 4) & 0x0FF00FF0u) | 0x70007000u, odd = ((scales >> 4) & 0x0FF00FF0u) | 0x70007000u;
  const auto& g = reinterpret_cast<const __nv_bfloat162&>(even);
  const auto& g8 = reinterpret_cast<const __nv_bfloat162&>(odd);
  unpack_nvfp4(word0, __low2bfloat162(g), __low2bfloat162(g8), a0);
  unpack_nvfp4(word1, __high2bfloat162(g), __high2bfloat162(g8), a1);
}

// E4M3 bits at a bf16's 15 and 10..4 read as the value times 2^-120.
__device__ __forceinline__ void unpack_fp8(uint32_t codes01, uint32_t codes23, uint32_t (&a)[4]) {
  constexpr uint32_t kTo120 = 0x7B807B80u;  // 2^120
  const auto expand = [](uint32_t in_high_bytes) { return multiply_bf16x2((in_high_bytes & 0x80008000u) | ((in_high_bytes >> 4) & 0x07F007F0u), kTo120); };
  // Codes 0 1 2 3 are a0.lo a0.hi a1.lo a1.hi; each goes to the high byte of its half.
  a[0] = expand(__byte_perm(codes01, 0, 0x1404));
  a[1] = expand(__byte_perm(codes01, 0, 0x3424));
  a[2] = expand(__byte_perm(codes23, 0, 0x1404));
  a[3] = expand(__byte_perm(codes23, 0, 0x3424));
}

// A lane's fragments of 64 inputs: half `half` of an FP8 unit, or a whole unit.
template <WeightFormat kFormat>
__device__ __forceinline__ void load_fragments(const uint8_t* unit, int half, int lane, uint32_t (&a)[4][4]) {
  if constexpr (kFormat == WeightFormat::bf16) {
#pragma unroll
    for (int k16 = 0; k16 < 4; ++k16) {
      const uint4 v = reinterpret_cast<const uint4*>(unit)[k16 * 32 + lane];
      a[k16][0] = v.x, a[k16][1] = v.y, a[k16][2] = v.z, a[k16][3] = v.w;
    }
  } else if constexpr (kFormat == WeightFormat::fp8_block) {
#pragma unroll
    for (int k32 = 0; k32 < 2; ++k32) {
      const uint4 v = reinterpret_cast<const uint4*>(unit)[(half * 2 + k32) * 32 + lane];
      unpack_fp8(v.x, v.y, a[k32 * 2]);
      unpack_fp8(v.z, v.w, a[k32 * 2 + 1]);
    }
  } else {
    const uint4 v = reinterpret_cast<const uint4*>(unit)[lane];
    const uint2 s = reinterpret_cast<const uint2*>(unit + 512)[lane / 4];
    unpack_nvfp4_two(v.x, v.y, s.x, a[0], a[1]);
    unpack_nvfp4_two(v.z, v.w, s.y, a[2], a[3]);
  }
}
}  // namespace nibble::cuda
