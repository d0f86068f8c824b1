// The ops between linear layers and attention. Shapes as in the headers of kernels/; all rows of a step, pads included.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

namespace nibble::cuda {
void embed(const int32_t* ids, const __nv_bfloat16* table, float scale, float* out, int rows, int hidden, cudaStream_t stream);
void rms_norm(const float* x, const __nv_bfloat16* weight, __nv_bfloat16* out, int rows, int hidden, float eps, cudaStream_t stream);

struct RmsNormAdd {
  const float* x;  // [slices, rows, hidden], slice_stride apart: partial sums, added in order
  int slices;
  int64_t slice_stride;
  const __nv_bfloat16* weight;
  float* residual;
  float scale;
  const __nv_bfloat16* next_weight;  // nullptr: no out
  __nv_bfloat16* out;
  int rows, hidden;
  float eps;
};
void rms_norm_add(const RmsNormAdd& args, cudaStream_t stream);

void gelu_gate(const float* gate, const float* up, __nv_bfloat16* out, int64_t count, cudaStream_t stream);
void softcap(float* logits, int64_t count, float cap, cudaStream_t stream);
void gather_rows(const float* x, const int32_t* rows, float* out, int num_rows, int hidden, cudaStream_t stream);
// out [count] = the sums of f32 [slices][count], in order; out may be x.
void add_slices(const float* x, int slices, int64_t slice_stride, int64_t count, float* out, cudaStream_t stream);
// cos and sin of position * frequency, [rows, pairs].
void rotary(const int32_t* positions, const float* frequencies, float* cos, float* sin, int rows, int pairs, cudaStream_t stream);
}  // namespace nibble::cuda
