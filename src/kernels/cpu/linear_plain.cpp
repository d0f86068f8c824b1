#include <vector>

#include "kernels/cpu/plain_math.h"
#include "kernels/linear.h"

namespace nibble::cpu {
namespace {
// One row of W as f32. The products of codes and scales are rounded as docs/formats say: the scales first, then code times scale.
struct DequantizeRow {
  int64_t n, k;
  float* out;

  void operator()(const Bf16Weight& w) const {
    const bf16* row = w.weight.as<bf16>() + n * k;
    for (int64_t i = 0; i < k; ++i) out[i] = to_float(row[i]);
  }
  void operator()(const Nvfp4Weight& w) const {
    const uint8_t* codes = w.codes.as<uint8_t>() + n * (k / 2);
    const e4m3* scales = w.block_scales.as<e4m3>() + n * (k / kNvfp4Block);
    for (int64_t i = 0; i < k; ++i) {
      const uint8_t code = i % 2 == 0 ? codes[i / 2] & 15 : codes[i / 2] >> 4;
      out[i] = e2m1_to_float(code) * (to_float(scales[i / kNvfp4Block]) * w.tensor_scale);
    }
  }
  void operator()(const Fp8BlockWeight& w) const {
    const e4m3* codes = w.codes.as<e4m3>() + n * k;
    const float* scales = w.scales.as<float>() + (n / kFp8Block) * w.scales.cols();
    for (int64_t i = 0; i < k; ++i) out[i] = to_float(codes[i]) * scales[i / kFp8Block];
  }
};
}  // namespace

void linear_plain(const Tensor& x, const LinearWeight& weight, const Tensor& out) {
  validate(weight);
  const auto [n, k] = shape_of(weight);
  NB_ASSERT(x.cols() == k && out.cols() == n && x.rows() == out.rows(), "linear: x must be [rows, K], out [rows, N]");
  std::vector<float> row(static_cast<size_t>(k));
  for (int64_t j = 0; j < n; ++j) {
    std::visit(DequantizeRow{j, k, row.data()}, weight);
    with_type(x.dtype, [&](auto x_type) {
      with_type(out.dtype, [&](auto out_type) {
        for (int64_t t = 0; t < x.rows(); ++t) {
          const auto* in = x.as<decltype(x_type)>() + t * k;
          float sum = 0.0f;
          for (int64_t i = 0; i < k; ++i) sum += load(in + i) * row[static_cast<size_t>(i)];
          store(sum, out.as<decltype(out_type)>() + t * n + j);
        }
      });
    });
  }
}
}  // namespace nibble::cpu
