// Weights to NVFP4 and FP8 128x128 on the device, to the same bytes and sums as the CPU's (kernels/quantize_weights.h): every f32 and f64 operation is the same,
// rounded once, in the same order.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/quantize_weights.h"

namespace nibble::cuda {
// All pointers are the device's; w [rows, cols] bf16.
void row_amax(const __nv_bfloat16* x, float* largest, int64_t rows, int64_t cols, cudaStream_t stream);

// codes [rows, cols / 2], scales [rows, cols / 16], errors [rows]: one sum a row.
void quantize_nvfp4(const __nv_bfloat16* w, int64_t rows, int64_t cols, float tensor_amax, ScaleSearch search, uint8_t* codes, uint8_t* scales, QuantError* errors, cudaStream_t stream);
// codes [rows, cols], scales and errors [ceil(rows / 128) * ceil(cols / 128)].
void quantize_fp8(const __nv_bfloat16* w, int64_t rows, int64_t cols, ScaleSearch search, uint8_t* codes, float* scales, QuantError* errors, cudaStream_t stream);

// Host tensors in and out, through pinned memory in parts that take turns: while one is quantized the next one goes to the device.
class WeightQuantizer {
 public:
  WeightQuantizer() = default;
  ~WeightQuantizer();
  WeightQuantizer(const WeightQuantizer&) = delete;
  QuantError quantize_nvfp4(const QuantizeNvfp4Args& args);
  QuantError quantize_fp8(const QuantizeFp8Args& args);

 private:
  struct Turn;
  Turn& turn(int i);
  Turn* turns_[2] = {};
};
}  // namespace nibble::cuda
