// What stands between pictures or sound and the residual stream: norms around the linear layers of the two embedders. Inputs lie in host memory.
//
//   LN(x; w, b) = (x - mean) / sqrt(var + eps) * w + b,   var without Bessel's correction
//
//   patch_norm      out = LN(u8 / 255; weight, bias)
//   patch_position  z   = LN(x + dense_bias; ln) + (positions[column, 0] + positions[row, 1])
//                   out = rms(LN(z; pos_norm))                  (rms without weight)
//   frame_norm      out = rms(samples)
//
// All in f32; `out` is rounded once when it is bf16, and then the inputs, u8 / 255 and samples, are rounded before.
#pragma once

#include <cstdint>
#include <span>

#include "base/tensor.h"

namespace nibble {
inline constexpr float kLayerNormEps = 1e-5f;  // the reference's; not the config's rms_norm_eps

struct PatchNormArgs {
  std::span<const uint8_t> pixels;  // [rows, n] on the host
  Tensor weight, bias;              // [n] bf16
  Tensor out;                       // [rows, n] bf16 or f32
};

struct PatchPositionArgs {
  Tensor x;                         // [rows, n] f32: patch_dense without its bias; changed
  Tensor dense_bias;                // [n] bf16
  Tensor ln_weight, ln_bias;        // [n] bf16
  Tensor positions;                 // [places, 2, n] bf16
  int32_t columns = 1;              // of the picture, in patches
  int32_t first_patch = 0;          // row i is patch first_patch + i, at column p % columns, row p / columns
  Tensor norm_weight, norm_bias;    // [n] bf16
  Tensor out;                       // [rows, n] bf16 or f32
  float eps = 1e-6f;                // of the last rms
};

struct FrameNormArgs {
  std::span<const float> samples;   // [rows, n] on the host
  Tensor out;                       // [rows, n] bf16 or f32
  float eps = 1e-6f;
};

class ThreadPool;
namespace cpu {
void patch_norm(const PatchNormArgs& args, ThreadPool& threads);
void patch_position(const PatchPositionArgs& args, ThreadPool& threads);
void frame_norm(const FrameNormArgs& args);
}  // namespace cpu
}  // namespace nibble
