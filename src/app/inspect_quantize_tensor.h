// `nibble inspect quantize-tensor`: matrices of a safetensors file as `quantize` would store them, one by one.
#pragma once

#include <string>

namespace nibble {
struct QuantizeTensorFlags {
  std::string format = "nvfp4", calib = "mse", in, out;
  int threads = 0;
};
// Writes, for each BF16 or F32 matrix NAME of `in` (F32 is rounded to BF16 first), NAME.weight, NAME.weight_scale, NAME.weight_scale_2 (NVFP4) and NAME.dequantized (F32).
int inspect_quantize_tensor(const QuantizeTensorFlags& flags);
}  // namespace nibble
