// From packed units to fragments: a lane's part of one k16, as four registers of two bf16 each.
#pragma once

#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/packed_weight.h"

namespace nibble::cuda {
// E2M1 bits moved to a bf16's sign (15) and lowest exponent and highest mantissa bits (8..6) read as the value times 2^-126, subnormals included;
// the scale's bits are times 2^107: the product is the exact value times 2^-19, and PackedWeight::factor takes that back. What bounds the kernels of few rows is
// the number of instructions here, above all of those that are not multiplications (half the rate), so the bits lie (packed_weight.cu, place_code) where one shift to the
// left brings both halves' to their places, and the last register's where a product turns three runs of bits at once.
__device__ __forceinline__ void unpack_nvfp4(uint32_t word, __nv_bfloat162 scale_g, __nv_bfloat162 scale_g8, uint32_t (&a)[4]) {
  constexpr uint32_t kCode = 0x81C081C0u;
  const auto times = [](uint32_t x, __nv_bfloat162 scale) {
    const __nv_bfloat162 product = __hmul2(reinterpret_cast<const __nv_bfloat162&>(x), scale);
    return reinterpret_cast<const uint32_t&>(product);
  };
  a[0] = times(word & kCode, scale_g);
  a[1] = times((word << 3) & kCode, scale_g8);
  a[2] = times((word << 6) & kCode, scale_g);
  const uint64_t turned = uint64_t{word & 0x6C006C00u} * (1u << 2 | 1u << 8 | 1u << 13);
  a[3] = times((static_cast<uint32_t>(turned) | static_cast<uint32_t>(turned >> 32)) & kCode, scale_g8);
}
// The exponent that unpack_nvfp4_two() puts above a scale's bits. In constant memory so that it stays a register: as an immediate, mask and exponent would
// take an instruction each.
static __constant__ uint32_t kScaleExponent = 0x70007000u;
// Two k16: `scales` holds the codes of (g, g + 8) of the first, then of the second, turned left by 4 bits. A code's bits under the exponent 111xxxxx are the scale
// times 2^107; the multiplication takes either half for both of its lanes.
__device__ __forceinline__ void unpack_nvfp4_two(uint32_t word0, uint32_t word1, uint32_t scales, uint32_t (&a0)[4], uint32_t (&a1)[4]) {
  constexpr uint32_t kBits = 0x0FF00FF0u;
  const uint32_t even = (scales & kBits) | kScaleExponent, odd = (__funnelshift_r(scales, scales, 8) & kBits) | kScaleExponent;
  const auto& g = reinterpret_cast<const __nv_bfloat162&>(even);
  const auto& g8 = reinterpret_cast<const __nv_bfloat162&>(odd);
  unpack_nvfp4(word0, __low2bfloat162(g), __low2bfloat162(g8), a0);
  unpack_nvfp4(word1, __high2bfloat162(g), __high2bfloat162(g8), a1);
}

// 2^60, twice: half of what unpack_fp8 takes away. A kernel multiplies its inputs by it, or its weights; the result's bits are the same.
inline constexpr uint32_t kFp8InputScale = 0x5D805D80u;
// E4M3 bits at a bf16's 15 and 10..4 read as the value times 2^-120, subnormals included; PackedWeight::factor takes that back, and kFp8InputScale keeps the
// sums in the middle of f32's range. A word holds two registers (packed_weight.cu, place_fp8).
__device__ __forceinline__ void unpack_fp8(uint32_t word, uint32_t& first, uint32_t& second) {
  first = word & 0x87F087F0u;
  second = ((word << 4) & 0x80F080F0u) | ((word >> 4) & 0x07000700u);
}

// What a lane holds of one step of both tiles of a pair: 16 inputs of BF16, 32 of FP8, 64 of NVFP4.
template <WeightFormat kFormat>
struct Piece {
  static constexpr int kK16 = kFormat == WeightFormat::bf16 ? 1 : kFormat == WeightFormat::fp8_block ? 2 : 4;
  uint4 tile[2], scales;

  // Step `step` of a unit of a pair.
  __device__ __forceinline__ void load(const uint8_t* unit, int step, int lane) {
#pragma unroll
    for (int t = 0; t < 2; ++t) tile[t] = *reinterpret_cast<const uint4*>(unit + t * tile_bytes(kFormat) + step * 512 + lane * 16);
    if constexpr (kFormat == WeightFormat::nvfp4) scales = *reinterpret_cast<const uint4*>(unit + kScalesAt + step * 128 + lane / 4 * 16);
  }
  // The registers of k16 number `k` and k + 1 (BF16: of k alone) of tile t.
  __device__ __forceinline__ void unpack(int t, int k, uint32_t (&a)[2][4]) const {
    const uint4 v = tile[t];
    if constexpr (kFormat == WeightFormat::bf16) {
      a[0][0] = v.x, a[0][1] = v.y, a[0][2] = v.z, a[0][3] = v.w;
    } else if constexpr (kFormat == WeightFormat::fp8_block) {
      unpack_fp8(v.x, a[0][0], a[0][1]);
      unpack_fp8(v.y, a[0][2], a[0][3]);
      unpack_fp8(v.z, a[1][0], a[1][1]);
      unpack_fp8(v.w, a[1][2], a[1][3]);
    } else {
      unpack_nvfp4_two(k == 0 ? v.x : v.z, k == 0 ? v.y : v.w, t == 0 ? (k == 0 ? scales.x : scales.y) : (k == 0 ? scales.z : scales.w), a[0], a[1]);
    }
  }
};
constexpr int unit_steps(WeightFormat f) { return f == WeightFormat::nvfp4 ? 2 : 4; }
}  // namespace nibble::cuda
