// The norms of the image and audio embedders (kernels/media_embed.h). Their sums are in double, as on the CPU: rows are few, and results are then the CPU's but
// for the last bit of the sums.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

namespace nibble::cuda {
// out = LN(u8 / 255 rounded to bf16), all [rows, width].
void patch_norm(const uint8_t* pixels, const __nv_bfloat16* weight, const __nv_bfloat16* bias, __nv_bfloat16* out, int rows, int width, cudaStream_t stream);

struct PatchPosition {
  float* x;                                        // [rows, width], changed
  const __nv_bfloat16 *dense_bias, *ln_weight, *ln_bias;
  const __nv_bfloat16* positions;                  // [places, 2, width]
  int columns, first_patch;
  const __nv_bfloat16 *norm_weight, *norm_bias;
  __nv_bfloat16* out;                              // [rows, width]
  int rows, width;
  float eps;
};
void patch_position(const PatchPosition& args, cudaStream_t stream);

// out = rms(samples rounded to bf16).
void frame_norm(const float* samples, __nv_bfloat16* out, int rows, int width, float eps, cudaStream_t stream);
}  // namespace nibble::cuda
