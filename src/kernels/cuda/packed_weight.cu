#include "kernels/cuda/packed_weight.h"

#include <algorithm>

namespace nibble::cuda {
namespace {
// The place of code i (of 8: a0.lo a0.hi a1.lo ...) in a lane's word. Register j of a fragment holds codes 2 j (low half) and 2 j + 1 (high half). unpack_nvfp4()
// wants their bits at 15 (sign) and 8..6 (magnitude) of each half: for j < 3 after a shift by 3 j; for the last register's, bits 10, 11, 13 and 14 of both halves
// are left, which a turn to the left by 13 (two bits of magnitude), 8 (its lowest) and 2 (sign) brings there.
__device__ uint32_t place_code(uint32_t code, int i) {
  const int j = i / 2, half = (i % 2) * 16;
  const uint32_t sign = code >> 3, magnitude = code & 7;
  if (j < 3) return (sign << 15 | magnitude << 6) << half >> 3 * j;
  const auto turn = [&](uint32_t bits, int right) { return __funnelshift_r(bits << half, bits << half, right); };
  return turn(sign << 15, 2) | turn((magnitude & 1) << 6, 8) | turn((magnitude & 6) << 6, 13);
}

// An E4M3 scale (never negative) as 5 bits of exponent and 3 of mantissa without subnormals: value = 2^(e - 10) * (1 + m / 8), e >= 1; 0 is a zero.
__device__ uint32_t scale_code(uint32_t e4m3) {
  const uint32_t magnitude = e4m3 & 0x7f;
  uint32_t exponent = magnitude >> 3, mantissa = magnitude & 7;
  if (magnitude == 0) return 0;
  if (exponent > 0) return (exponent + 3) << 3 | mantissa;
  int shift = 0;  // m * 2^-9: shift until the leading one falls out
  while (!(mantissa & 8)) mantissa <<= 1, ++shift;
  return (4 - shift) << 3 | (mantissa & 7);
}

// Row and input of value i (a0.lo a0.hi a1.lo ... a3.hi) of a lane's fragment of one k16.
__device__ int fragment_row(int lane, int i) { return lane / 4 + (i / 2 % 2) * 8; }
__device__ int fragment_input(int lane, int i) { return lane % 4 * 2 + i % 2 + (i / 4) * 8; }

// The place of code i (of 4: a0.lo a0.hi a1.lo a1.hi, or of a2 and a3) in a lane's word, each half of which holds a code of either register. The first
// register's lie where a bf16 has them (sign 15, exponent and mantissa 10..4); the second's: sign 11, the mantissa and lowest exponent bit 3..0, the rest 14..12.
__device__ uint32_t place_fp8(uint32_t code, int i) {
  const uint32_t sign = code >> 7, magnitude = code & 0x7f;
  const uint32_t half = i / 2 == 0 ? sign << 15 | magnitude << 4 : sign << 11 | (magnitude & 15) | (magnitude >> 4) << 12;
  return half << (i % 2 * 16);
}

// One block per (unit, tile, slice), 32 threads: a lane each.
template <WeightFormat kFormat>
__global__ void pack(PackedWeight w, const uint8_t* codes, const uint8_t* block_scales, uint8_t* blocks) {
  const int unit = blockIdx.x, slice = blockIdx.z, lane = threadIdx.x;
  for (int tile = blockIdx.y; tile < w.tiles; tile += gridDim.y) {
    uint8_t* const pair = blocks + pair_offset(kFormat, slice, w.tiles, w.units, tile / 2) + int64_t{unit} * pair_unit_bytes(kFormat);
    uint8_t* const out = pair + tile % 2 * tile_bytes(kFormat);
    const int first_row = tile * kTileOutputs, first_input = (slice * w.units + unit) * unit_inputs(kFormat);
    const auto inside = [&](int row, int input) { return first_row + row < w.n && first_input + input < w.k; };
    const auto index = [&](int row, int input) { return int64_t{first_row + row} * w.k + first_input + input; };
    if constexpr (kFormat == WeightFormat::nvfp4) {
      const auto scale_at = [&](int row, int block) -> uint32_t {
        return inside(row, block * 16) ? block_scales[int64_t{first_row + row} * (w.k / 16) + first_input / 16 + block] : 0;
      };
      for (int k16 = 0; k16 < 8; ++k16) {
        uint32_t word = 0;
        for (int i = 0; i < 8; ++i) {
          const int row = fragment_row(lane, i), input = k16 * 16 + fragment_input(lane, i);
          if (!inside(row, input) || (scale_at(row, k16) & 0x7f) == 0) continue;  // a zero scale has no code of its own: its values become zeros
          const int64_t at = index(row, input);
          word |= place_code(codes[at / 2] >> (at % 2 * 4) & 15, i);
        }
        reinterpret_cast<uint32_t*>(out)[(k16 / 4 * 32 + lane) * 4 + k16 % 4] = word;
      }
      // Lane = 4 g + which two k16.
      const int g = lane / 4, first = lane % 4 * 2;
      const auto code = [&](int k16, int row) { return scale_code(scale_at(row, k16)); };
      const uint32_t codes_of_two = code(first, g) | code(first, g + 8) << 8 | code(first + 1, g) << 16 | code(first + 1, g + 8) << 24;
      *reinterpret_cast<uint32_t*>(pair + kScalesAt + (first / 4 * 8 + g) * 16 + tile % 2 * 8 + first % 4 * 2) = __funnelshift_l(codes_of_two, codes_of_two, 4);
    } else if constexpr (kFormat == WeightFormat::fp8_block) {
      for (int k16 = 0; k16 < 8; ++k16) {
        for (int word = 0; word < 2; ++word) {
          uint32_t bits = 0;
          for (int i = 0; i < 4; ++i) {
            const int row = fragment_row(lane, word * 4 + i), input = k16 * 16 + fragment_input(lane, word * 4 + i);
            if (inside(row, input)) bits |= place_fp8(codes[index(row, input)], i);
          }
          reinterpret_cast<uint32_t*>(out)[((k16 / 2) * 32 + lane) * 4 + k16 % 2 * 2 + word] = bits;
        }
      }
    } else {
      for (int k16 = 0; k16 < 4; ++k16) {
        for (int i = 0; i < 8; ++i) {
          const int row = fragment_row(lane, i), input = k16 * 16 + fragment_input(lane, i);
          reinterpret_cast<uint16_t*>(out)[(k16 * 32 + lane) * 8 + i] = inside(row, input) ? reinterpret_cast<const uint16_t*>(codes)[index(row, input)] : 0;
        }
      }
    }
  }
}
}  // namespace

void pack_weight(const PackedWeight& w, const void* codes, const void* block_scales, uint8_t* blocks, cudaStream_t stream) {
  const dim3 grid(w.units, std::min(w.tiles, 65535), w.slices);
  const auto* c = static_cast<const uint8_t*>(codes);
  const auto* s = static_cast<const uint8_t*>(block_scales);
  switch (w.format) {
    case WeightFormat::bf16: pack<WeightFormat::bf16><<<grid, 32, 0, stream>>>(w, c, s, blocks); break;
    case WeightFormat::fp8_block: pack<WeightFormat::fp8_block><<<grid, 32, 0, stream>>>(w, c, s, blocks); break;
    case WeightFormat::nvfp4: pack<WeightFormat::nvfp4><<<grid, 32, 0, stream>>>(w, c, s, blocks); break;
  }
}
}  // namespace nibble::cuda
