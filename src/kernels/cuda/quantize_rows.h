// Activations rounded to NVFP4 before a linear layer, where there are no FP4 units to multiply them: for each row and 16 inputs
//   S = e4m3(max|x| / 6 / g),  out = e2m1(x / (S g)) S            (0 where S g is 0)
// with g the weight's input scale, by which the result of the layer is multiplied. A value of e2m1 times one of e4m3 has six significant bits: exact in bf16.
// The same bits as the CPU's.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

namespace nibble::cuda {
// x and out [rows, width] bf16, width a multiple of 16.
void quantize_nvfp4_rows(const __nv_bfloat16* x, float global_scale, __nv_bfloat16* out, int rows, int width, cudaStream_t stream);
}  // namespace nibble::cuda
