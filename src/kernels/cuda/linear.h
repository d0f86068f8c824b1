// Linear layers on the device: out = x W^T for packed weights. Two kernels, one sum (packed_weight.h):
//   narrow   1 to 8 rows: x stays in shared memory, each warp streams its segment of a tile; mma.sync
//   wide     9 rows and more: 128 outputs by 16 to 160 rows a CTA, weights unpacked into registers, x through the tensor copy engine; wgmma (sm_90a)
#pragma once

#include <cuda_runtime_api.h>

#include <span>

#include "kernels/cuda/packed_weight.h"

namespace nibble::cuda {
struct Target {
  PackedWeight weight;
  float* out = nullptr;  // [slices, rows, n] f32: the partial sums of slices, `slice_stride` floats apart
  int64_t slice_stride = 0;
};

// What a kernel wants to know of a target.
struct LinearPart {
  const uint8_t* blocks;
  const float* scales;
  float* out;
  int64_t slice_stride;
  float factor;
  int n, tiles;
};
inline LinearPart linear_part(const Target& t) { return {t.weight.blocks, t.weight.scales, t.out, t.slice_stride, t.weight.factor, t.weight.n, t.weight.tiles}; }

// x [rows, k] bf16, multiplied by up to three weights of one format, k and number of slices in one launch.
// x must be readable up to a multiple of the row tile (160 rows at most).
struct LinearCall {
  const void* x = nullptr;
  int rows = 0;
  Target targets[3];
  int num_targets = 0;
  // gelu(x W0^T) * (x W1^T), rounded to bf16, instead: two targets of one shape and one slice; gated [rows, n].
  void* gated = nullptr;
};

void linear_narrow(const LinearCall& call, cudaStream_t stream);
// x_map: a CUtensorMap over x in boxes of 64 inputs by wide_row_tile() rows, swizzled by 128 bytes.
void linear_wide(const LinearCall& call, const void* x_map, cudaStream_t stream);
int wide_row_tile(WeightFormat format, int rows);  // 16 to 160
inline constexpr int kNarrowRows = 8;
}  // namespace nibble::cuda
