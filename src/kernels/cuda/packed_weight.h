// Weights in the order in which the tensor cores want them, made once at load on the device.
//
// A weight [N, K] is cut into tiles of 16 outputs, and K into `slices` (whose partial sums the consumer of the result adds up) and each slice
// into units: 64 inputs (BF16) or 128 (FP8, NVFP4). A unit of a pair of tiles is one contiguous block, in which a warp finds its fragments of mma.m16n8k16 with
// 16-byte loads:
//
//   BF16    2 x 2048 B  [2 tiles][4 k16][32 lanes] x 16 B: a0 a1 a2 a3
//   FP8     2 x 2048 B  [2 tiles][4 k32][32 lanes] x 16 B: a word a0 | a1 and a word a2 | a3 of each k16, in the bit order of unpack_fp8()
//   NVFP4   2 x 1152 B  [2 tiles][2 k64][32 lanes] x 16 B: a word of 8 codes per k16, in the bit order of unpack_nvfp4(); then the scales,
//                       [2 k64][8 g][2 tiles] x 8 B: (g, g + 8) of each k16, in the order of unpack_nvfp4_two()
//
// Blocks lie in the order [slice][pair of tiles][unit]. N is padded to 32 (outputs that are never written), K to whole units, with zeros.
//
// The canonical sum. Every kernel that multiplies by a packed weight, for one row or a thousand, adds in this order, so that a row's bits do not depend on
// the rows beside it: a slice's units are divided into kSegments runs; in a run, tensor cores add k16 after k16 into one f32 accumulator (FP8: per unit,
// which is then multiplied by its scale and added); the runs' sums are added first to last; slices likewise.
// Tensor cores of one generation give the same bits through mma.sync and through wgmma; a test watches it.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace nibble::cuda {
enum class WeightFormat : int { bf16, fp8_block, nvfp4 };

inline constexpr int kTileOutputs = 16;
inline constexpr int kSegments = 8;
constexpr int unit_inputs(WeightFormat f) { return f == WeightFormat::bf16 ? 64 : 128; }
constexpr int pair_unit_bytes(WeightFormat f) { return f == WeightFormat::nvfp4 ? 2304 : 4096; }
// Within a unit of a pair: where a tile's codes begin, and NVFP4's scales.
constexpr int tile_bytes(WeightFormat f) { return f == WeightFormat::nvfp4 ? 1024 : 2048; }
inline constexpr int kScalesAt = 2048;

struct PackedWeight {
  WeightFormat format = WeightFormat::bf16;
  int n = 0, k = 0;              // as in the checkpoint
  int tiles = 0, units = 0;      // of 16 outputs, even; per slice
  int slices = 1;
  const uint8_t* blocks = nullptr;
  const float* scales = nullptr; // FP8: [ceil(n / 128), slices * units] f32
  float factor = 1.0f;           // the result's multiplier
  int64_t bytes() const { return int64_t{slices} * (tiles / 2) * units * pair_unit_bytes(format); }
};

// Where the units of a pair of tiles begin.
__host__ __device__ inline int64_t pair_offset(WeightFormat f, int slice, int tiles, int units, int pair) {
  return (int64_t{slice} * (tiles / 2) + pair) * units * pair_unit_bytes(f);
}

// The first unit of segment s of `units`.
__host__ __device__ constexpr int segment_begin(int units, int s) { return units * s / kSegments; }

// A function of the shape alone: the 12B model's wide-input layers (K of 4096 and more, N of 3840) would leave half of the multiprocessors without a tile, and x
// must fit the narrow kernel's shared memory.
constexpr int choose_slices(WeightFormat format, int64_t k) {
  int slices = 1;
  while (k / slices >= 4096 && slices < 4 && k % (2 * slices * unit_inputs(format)) == 0) slices *= 2;
  return slices;
}

// Repacks on `stream` from device copies of the checkpoint's tensors (codes [n, k] in its format; block_scales NVFP4 [n, k / 16] e4m3) into `blocks`.
void pack_weight(const PackedWeight& weight, const void* codes, const void* block_scales, uint8_t* blocks, cudaStream_t stream);
}  // namespace nibble::cuda
