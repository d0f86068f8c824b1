// RMSNorm, and the two places where it stands in a Gemma layer.
//
//   rms(x, w) = x / sqrt(mean(x^2) + eps) * w                    (w as stored, not 1 + w)
//
//   rms_norm       out      = rms(x, weight)
//   rms_norm_add   residual = (residual + rms(x, weight)) * scale
//                  out      = rms(residual, next_weight)          (unless next_weight is empty)
//
// All in f32; `out` is rounded once when it is bf16. The residual stream stays f32.
#pragma once

#include "base/tensor.h"

namespace nibble {
struct RmsNormArgs {
  Tensor x;       // [rows, hidden] f32
  Tensor weight;  // [hidden] bf16
  Tensor out;     // [rows, hidden] bf16 or f32
  float eps = 1e-6f;
};

struct RmsNormAddArgs {
  Tensor x;            // [rows, hidden] f32: what the sub-layer made
  Tensor weight;       // [hidden] bf16
  Tensor residual;     // [rows, hidden] f32, read and written
  float scale = 1.0f;  // the layer scalar after the second sub-layer, 1 after the first
  Tensor next_weight;  // [hidden] bf16; data == nullptr: no `out`
  Tensor out;          // [rows, hidden] bf16 or f32
  float eps = 1e-6f;
};

void validate(const RmsNormArgs& args);  // aborts on a caller's mistake
void validate(const RmsNormAddArgs& args);

class ThreadPool;
namespace cpu {
void rms_norm(const RmsNormArgs& args, ThreadPool& threads);
void rms_norm_add(const RmsNormAddArgs& args, ThreadPool& threads);
}  // namespace cpu
}  // namespace nibble
