// Linear layers: out = x W^T, in the weight formats of the checkpoints. The format of a weight is data; linear() visits it.
//
//   Bf16       W[n, k] = weight[n, k]
//   Nvfp4      W[n, k] = e2m1(codes[n, k]) * (e4m3(block_scales[n, k / 16]) * tensor_scale)
//   Fp8Block   W[n, k] = e4m3(codes[n, k]) * scales[n / 128, k / 128]
//
// Sums are f32. A row's result is the same bits whatever the number of rows: every kernel of one instruction set sums over k in the
// same order (which order is up to that set; the plain twin goes from 0 to K - 1).
#pragma once

#include <cstdint>
#include <variant>

#include "base/tensor.h"

namespace nibble {
inline constexpr int64_t kNvfp4Block = 16;
inline constexpr int64_t kFp8Block = 128;

// As stored in a checkpoint; views of the mapped file.
struct Bf16Weight {
  Tensor weight;  // [N, K] bf16
};
struct Nvfp4Weight {
  Tensor codes;         // [N, K / 2] u8: input 2j in the low nibble of byte j, 2j + 1 in the high one
  Tensor block_scales;  // [N, K / 16] e4m3
  float tensor_scale = 1.0f;  // weight_scale_2
  float input_scale = 0.0f;   // 0: none, activations stay as they are
};
struct Fp8BlockWeight {
  Tensor codes;   // [N, K] e4m3
  Tensor scales;  // [ceil(N / 128), ceil(K / 128)] f32, multipliers
};
using LinearWeight = std::variant<Bf16Weight, Nvfp4Weight, Fp8BlockWeight>;

struct LinearShape {
  int64_t out_features = 0;  // N
  int64_t in_features = 0;   // K
};
LinearShape shape_of(const LinearWeight& weight);
int64_t stored_bytes(const LinearWeight& weight);  // what one pass over the weight must read
void validate(const LinearWeight& weight);         // aborts when the parts' shapes or dtypes do not fit each other

namespace cpu {
// The specification: plain loops in the order of the formula.
// x [rows, K] and out [rows, N], each bf16 or f32; a bf16 result is rounded once.
void linear_plain(const Tensor& x, const LinearWeight& weight, const Tensor& out);
}  // namespace cpu
}  // namespace nibble
