#include <cmath>

#include "base/thread_pool.h"
#include "kernels/cpu/plain_math.h"
#include "kernels/rms_norm.h"

namespace nibble::cpu {
namespace {
// Sixteen partial sums, added pairwise at the end: an order that vectorizes and never changes.
float inverse_rms(const float* x, int64_t n, float eps) {
  float partial[16] = {};
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    for (int lane = 0; lane < 16; ++lane) partial[lane] += x[i + lane] * x[i + lane];
  }
  for (int lane = 0; i < n; ++i, ++lane) partial[lane] += x[i] * x[i];
  for (int width = 8; width > 0; width /= 2) {
    for (int lane = 0; lane < width; ++lane) partial[lane] += partial[lane + width];
  }
  return 1.0f / std::sqrt(partial[0] / static_cast<float>(n) + eps);
}

template <typename Out>
void write_normed(const float* x, const bf16* weight, float inv_rms, int64_t n, Out* out) {
  for (int64_t i = 0; i < n; ++i) store(x[i] * inv_rms * to_float(weight[i]), out + i);
}
}  // namespace

void rms_norm(const RmsNormArgs& args, ThreadPool& threads) {
  validate(args);
  const int64_t hidden = args.x.cols();
  with_type(args.out.dtype, [&](auto type) {
    threads.run(args.x.rows(), [&](int64_t row) {
      const float* x = args.x.as<float>() + row * hidden;
      write_normed(x, args.weight.as<bf16>(), inverse_rms(x, hidden, args.eps), hidden, args.out.as<decltype(type)>() + row * hidden);
    });
  });
}

void rms_norm_add(const RmsNormAddArgs& args, ThreadPool& threads) {
  validate(args);
  const int64_t hidden = args.x.cols();
  const bf16* weight = args.weight.as<bf16>();
  with_type(args.next_weight ? args.out.dtype : DType::f32, [&](auto type) {
    threads.run(args.x.rows(), [&](int64_t row) {
      const float* x = args.x.as<float>() + row * hidden;
      float* residual = args.residual.as<float>() + row * hidden;
      const float inv_rms = inverse_rms(x, hidden, args.eps);
      for (int64_t i = 0; i < hidden; ++i) residual[i] = (residual[i] + x[i] * inv_rms * to_float(weight[i])) * args.scale;
      if (!args.next_weight) return;
      write_normed(residual, args.next_weight.as<bf16>(), inverse_rms(residual, hidden, args.eps), hidden, args.out.as<decltype(type)>() + row * hidden);
    });
  });
}
}  // namespace nibble::cpu
