#include "kernels/cpu/linear_dot.h"

#include <algorithm>
#include <vector>

#include "base/number_formats.h"

// One clone per instruction set, picked by the loader. Sums are spelled out in sixteen lanes and contraction is off, so that all clones agree.
// (Sanitizers' runtimes are not ready when clones are picked.)
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define NB_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define NB_CLONES
#endif

namespace nibble::cpu {
namespace {
constexpr int kLanes = 16;

NB_CLONES float dot(const float* a, const float* b, int64_t n) {
  float partial[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) partial[lane] += a[i + lane] * b[i + lane];
  }
  for (int lane = 0; i < n; ++i, ++lane) partial[lane] += a[i] * b[i];
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int lane = 0; lane < width; ++lane) partial[lane] += partial[lane + width];
  }
  return partial[0];
}

NB_CLONES void widen_bf16(const uint16_t* from, int64_t n, float* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = to_float(bf16{from[i]});
}

struct WidenRow {
  int64_t n, k;
  float* out;

  void operator()(const Bf16Weight& w) const { widen_bf16(w.weight.as<uint16_t>() + n * k, k, out); }
  void operator()(const Nvfp4Weight& w) const {
    const uint8_t* codes = w.codes.as<uint8_t>() + n * (k / 2);
    const e4m3* scales = w.block_scales.as<e4m3>() + n * (k / kNvfp4Block);
    for (int64_t b = 0; b < k / kNvfp4Block; ++b) {
      const float scale = to_float(scales[b]) * w.tensor_scale;
      for (int64_t i = 0; i < kNvfp4Block / 2; ++i) {
        const uint8_t byte = codes[b * (kNvfp4Block / 2) + i];
        out[b * kNvfp4Block + i * 2] = kE2m1Values[byte & 15] * scale;
        out[b * kNvfp4Block + i * 2 + 1] = kE2m1Values[byte >> 4] * scale;
      }
    }
  }
  void operator()(const Fp8BlockWeight& w) const {
    const e4m3* codes = w.codes.as<e4m3>() + n * k;
    const float* scales = w.scales.as<float>() + (n / kFp8Block) * w.scales.cols();
    for (int64_t i = 0; i < k; ++i) out[i] = to_float(codes[i]) * scales[i / kFp8Block];
  }
};
}  // namespace

void linear_dot(const LinearWeight& weight, const Tensor& x, float input_scale, const Tensor& out, ThreadPool& threads) {
  const auto [n, k] = shape_of(weight);
  const int64_t rows = x.rows();
  static thread_local std::vector<float> t_widened;
  const float* input = x.as<float>();
  if (x.dtype == DType::bf16) {
    t_widened.resize(static_cast<size_t>(rows * k));
    widen_bf16(x.as<uint16_t>(), rows * k, t_widened.data());
    input = t_widened.data();
  }
  constexpr int64_t kPart = 16;  // outputs
  threads.run((n + kPart - 1) / kPart, [&, n = n, k = k](int64_t part) {
    static thread_local std::vector<float> t_row;
    t_row.resize(static_cast<size_t>(k));
    for (int64_t j = part * kPart; j < std::min(n, (part + 1) * kPart); ++j) {
      std::visit(WidenRow{j, k, t_row.data()}, weight);
      for (int64_t row = 0; row < rows; ++row) out.as<float>()[row * n + j] = dot(input + row * k, t_row.data(), k) * input_scale;
    }
  });
}
}  // namespace nibble::cpu
