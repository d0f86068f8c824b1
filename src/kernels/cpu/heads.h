// What happens to one head of q or k before attention.
#pragma once

#include <cmath>
#include <cstdint>

#include "base/number_formats.h"

namespace nibble::cpu {
// x = x / rms(x) * weight (weight == nullptr: 1), over one head.
inline void norm_head(float* x, const bf16* weight, int64_t n, float eps) {
  float sum_sq = 0.0f;
  for (int64_t i = 0; i < n; ++i) sum_sq += x[i] * x[i];
  const float inv_rms = 1.0f / std::sqrt(sum_sq / static_cast<float>(n) + eps);
  for (int64_t i = 0; i < n; ++i) x[i] = x[i] * inv_rms * (weight ? to_float(weight[i]) : 1.0f);
}

inline void rotate_head(float* x, const float* cos, const float* sin, int64_t pairs, int64_t n) {
  for (int64_t p = 0; p < pairs; ++p) {
    const float a = x[p], b = x[p + n / 2];
    x[p] = a * cos[p] - b * sin[p];
    x[p + n / 2] = b * cos[p] + a * sin[p];
  }
}
}  // namespace nibble::cpu
