#include "kernels/media_embed.h"

#include <cmath>
#include <vector>

#include "base/thread_pool.h"
#include "kernels/cpu/plain_math.h"

namespace nibble::cpu {
namespace {
// x = LN(x; w, b) in place. Sums in double: 6912 terms, and rows are few.
void layer_norm(float* x, const bf16* weight, const bf16* bias, int64_t n) {
  double sum = 0.0, squares = 0.0;
  for (int64_t i = 0; i < n; ++i) sum += x[i];
  const double mean = sum / static_cast<double>(n);
  for (int64_t i = 0; i < n; ++i) squares += (x[i] - mean) * (x[i] - mean);
  const double inverse = 1.0 / std::sqrt(squares / static_cast<double>(n) + kLayerNormEps);
  for (int64_t i = 0; i < n; ++i) x[i] = static_cast<float>((x[i] - mean) * inverse) * to_float(weight[i]) + to_float(bias[i]);
}

template <typename Out>
void rms(const float* x, int64_t n, float eps, Out* out) {
  double squares = 0.0;
  for (int64_t i = 0; i < n; ++i) squares += double{x[i]} * x[i];
  const auto inverse = static_cast<float>(1.0 / std::sqrt(squares / static_cast<double>(n) + eps));
  for (int64_t i = 0; i < n; ++i) store(x[i] * inverse, out + i);
}

float rounded(float x) { return to_float(to_bf16(x)); }
}  // namespace

void patch_norm(const PatchNormArgs& args, ThreadPool& threads) {
  const int64_t n = args.out.cols();
  NB_ASSERT(static_cast<int64_t>(args.pixels.size()) == args.out.count() && args.weight.count() == n && args.bias.count() == n, "one value per pixel");
  const bool round = args.out.dtype == DType::bf16;
  with_type(args.out.dtype, [&](auto type) {
    threads.run(args.out.rows(), [&](int64_t row) {
      std::vector<float> x(static_cast<size_t>(n));
      for (int64_t i = 0; i < n; ++i) {
        const float value = static_cast<float>(args.pixels[static_cast<size_t>(row * n + i)]) * (1.0f / 255.0f);
        x[static_cast<size_t>(i)] = round ? rounded(value) : value;
      }
      layer_norm(x.data(), args.weight.as<bf16>(), args.bias.as<bf16>(), n);
      auto* out = args.out.as<decltype(type)>() + row * n;
      for (int64_t i = 0; i < n; ++i) store(x[static_cast<size_t>(i)], out + i);
    });
  });
}

void patch_position(const PatchPositionArgs& args, ThreadPool& threads) {
  const int64_t n = args.x.cols();
  with_type(args.out.dtype, [&](auto type) {
    threads.run(args.x.rows(), [&](int64_t row) {
      float* x = args.x.as<float>() + row * n;
      for (int64_t i = 0; i < n; ++i) x[i] += to_float(args.dense_bias.as<bf16>()[i]);
      layer_norm(x, args.ln_weight.as<bf16>(), args.ln_bias.as<bf16>(), n);
      const int64_t patch = args.first_patch + row, column = patch % args.columns, line = patch / args.columns;
      NB_ASSERT(column < args.positions.shape[0] && line < args.positions.shape[0], "a patch lies beyond the position table");
      const bf16* across = args.positions.as<bf16>() + column * 2 * n;
      const bf16* down = args.positions.as<bf16>() + (line * 2 + 1) * n;
      for (int64_t i = 0; i < n; ++i) x[i] += to_float(across[i]) + to_float(down[i]);
      layer_norm(x, args.norm_weight.as<bf16>(), args.norm_bias.as<bf16>(), n);
      rms(x, n, args.eps, args.out.as<decltype(type)>() + row * n);
    });
  });
}

void frame_norm(const FrameNormArgs& args) {
  const int64_t n = args.out.cols();
  NB_ASSERT(static_cast<int64_t>(args.samples.size()) == args.out.count(), "one value per sample");
  std::vector<float> x(static_cast<size_t>(n));
  const bool round = args.out.dtype == DType::bf16;
  with_type(args.out.dtype, [&](auto type) {
    for (int64_t row = 0; row < args.out.rows(); ++row) {
      for (int64_t i = 0; i < n; ++i) {
        const float value = args.samples[static_cast<size_t>(row * n + i)];
        x[static_cast<size_t>(i)] = round ? rounded(value) : value;
      }
      rms(x.data(), n, args.eps, args.out.as<decltype(type)>() + row * n);
    }
  });
}
}  // namespace nibble::cpu
