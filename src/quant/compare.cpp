#include "quant/compare.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "base/error.h"
#include "base/number_formats.h"
#include "base/thread_pool.h"
#include "formats/safetensors.h"
#include "kernels/linear.h"
#include "model/weight_names.h"

namespace nibble {
namespace {
namespace fs = std::filesystem;

// A tensor with its scales, readable row by row.
struct Readable {
  Tensor weight, block_scales;  // block_scales: NVFP4 e4m3 [N, K / 16], FP8 f32 [N / 128, K / 128]
  float tensor_scale = 1;
  std::string format;
  Shape shape;  // of the values

  void read_row(int64_t row, float* out) const {
    const int64_t cols = shape.rank == 0 ? 1 : shape[shape.rank - 1];
    switch (weight.dtype) {
      case DType::bf16:
        for (int64_t i = 0; i < cols; ++i) out[i] = to_float(weight.as<bf16>()[row * cols + i]);
        return;
      case DType::f16:
        for (int64_t i = 0; i < cols; ++i) out[i] = to_float(weight.as<f16>()[row * cols + i]);
        return;
      case DType::f32: std::copy_n(weight.as<float>() + row * cols, cols, out); return;
      case DType::u8:
        for (int64_t b = 0; b < cols / kNvfp4Block; ++b) {
          const float scale = to_float(block_scales.as<e4m3>()[row * (cols / kNvfp4Block) + b]) * tensor_scale;
          for (int64_t i = b * kNvfp4Block; i < (b + 1) * kNvfp4Block; ++i) out[i] = e2m1_to_float(static_cast<uint8_t>(weight.as<uint8_t>()[(row * cols + i) / 2] >> (i % 2 * 4))) * scale;
        }
        return;
      case DType::e4m3: {
        const float* const scales = block_scales.as<float>() + row / kFp8Block * ((cols + kFp8Block - 1) / kFp8Block);
        for (int64_t i = 0; i < cols; ++i) out[i] = to_float(weight.as<e4m3>()[row * cols + i]) * scales[i / kFp8Block];
        return;
      }
      default: return;
    }
  }
};

bool ends_with_scale(const std::string& name) {
  for (const char* suffix : {".weight_scale", ".weight_scale_2", ".weight_scale_inv", ".input_scale"}) {
    if (name.ends_with(suffix)) return true;
  }
  return false;
}

std::map<std::string, Readable> readable(const TensorFiles& files, const fs::path& folder) {
  std::map<std::string, Tensor> by_name;
  for (const auto& [name, stored] : files.tensors()) by_name[canonical_name(name)] = stored.tensor;
  std::map<std::string, Readable> out;
  for (const auto& [name, tensor] : by_name) {
    if (is_ignored(name) || ends_with_scale(name)) continue;
    const auto scale = [&](const char* suffix) {
      const auto found = by_name.find(name + suffix);
      return found == by_name.end() ? Tensor{} : found->second;
    };
    const auto wrong = [&](const char* what) { raise(ErrorCode::corrupt, "{}: {}: {}", folder.string(), name, what); };
    Readable r{tensor, {}, 1, std::string(name_of(tensor.dtype)), tensor.shape};
    if (tensor.dtype == DType::u8) {
      r.block_scales = scale("_scale");
      const Tensor second = scale("_scale_2");
      r.format = "NVFP4";
      if (tensor.shape.rank != 2 || !r.block_scales || r.block_scales.dtype != DType::e4m3 || r.block_scales.count() * 8 != tensor.count() || !second || second.dtype != DType::f32 || second.count() != 1) {
        wrong("U8 wants weight_scale (F8_E4M3, one per 16 values) and weight_scale_2 (F32) beside it");
      }
      r.tensor_scale = *second.as<float>();
      r.shape = {tensor.shape[0], tensor.shape[1] * 2};
    } else if (tensor.dtype == DType::e4m3) {
      r.block_scales = scale("_scale") ? scale("_scale") : scale("_scale_inv");
      r.format = "FP8 128x128";
      const int64_t wanted = (tensor.rows() + kFp8Block - 1) / kFp8Block * ((tensor.cols() + kFp8Block - 1) / kFp8Block);
      if (tensor.shape.rank != 2 || !r.block_scales || r.block_scales.dtype != DType::f32 || r.block_scales.count() != wanted) wrong("F8_E4M3 wants weight_scale (F32, one per 128x128 values) beside it");
    } else if (tensor.dtype != DType::bf16 && tensor.dtype != DType::f16 && tensor.dtype != DType::f32) {
      continue;  // no numbers of a model
    }
    out[name] = std::move(r);
  }
  return out;
}

struct RowSum {
  double a_sq = 0, error_sq = 0, worst = -1, worst_error = 0;
  int64_t row = 0, col = 0;
};

RowSum compare_row(const Readable& a, const Readable& b, int64_t row, int64_t cols) {
  std::vector<float> x(static_cast<size_t>(cols)), y(static_cast<size_t>(cols));
  a.read_row(row, x.data());
  b.read_row(row, y.data());
  RowSum sum{.row = row};
  for (int64_t begin = 0; begin < cols; begin += kNvfp4Block) {
    double a_sq = 0, error_sq = 0;
    for (int64_t i = begin; i < std::min(begin + kNvfp4Block, cols); ++i) {
      const double w = static_cast<double>(x[static_cast<size_t>(i)]), d = w - static_cast<double>(y[static_cast<size_t>(i)]);
      a_sq += w * w;
      error_sq += d * d;
    }
    sum.a_sq += a_sq;
    sum.error_sq += error_sq;
    if (error_sq > sum.worst) sum.worst = error_sq, sum.col = begin, sum.worst_error = a_sq > 0 ? std::sqrt(error_sq / a_sq) : std::sqrt(error_sq);
  }
  return sum;
}
}  // namespace

double TensorDifference::relative_error() const {
  if (missing()) return INFINITY;
  if (error_sq == 0) return 0;
  return a_sq > 0 ? std::sqrt(error_sq / a_sq) : INFINITY;
}

std::vector<TensorDifference> compare_checkpoints(const fs::path& folder_a, const fs::path& folder_b, int num_threads) {
  const TensorFiles files_a = TensorFiles::open(folder_a), files_b = TensorFiles::open(folder_b);
  const auto a = readable(files_a, folder_a), b = readable(files_b, folder_b);
  ThreadPool threads(num_threads);
  std::vector<TensorDifference> out;
  for (const auto& [name, x] : a) {
    TensorDifference d{.name = name, .format_a = x.format, .format_b = {}, .shape = x.shape};
    if (const auto found = b.find(name); found != b.end()) {
      const Readable& y = found->second;
      if (!(x.shape == y.shape)) raise(ErrorCode::corrupt, "{}: {} has {} values, in {} {}; the shapes differ", folder_b.string(), name, y.shape.count(), folder_a.string(), x.shape.count());
      d.format_b = y.format;
      const int64_t cols = x.shape.rank == 0 ? 1 : x.shape[x.shape.rank - 1], rows = cols > 0 ? x.shape.count() / cols : 0;
      std::vector<RowSum> sums(static_cast<size_t>(rows));
      threads.run(rows, [&](int64_t row) { sums[static_cast<size_t>(row)] = compare_row(x, y, row, cols); });
      double worst = -1;
      for (const RowSum& s : sums) {
        d.a_sq += s.a_sq;
        d.error_sq += s.error_sq;
        if (s.worst > worst) worst = s.worst, d.worst_row = s.row, d.worst_col = s.col, d.worst_block_error = s.worst_error;
      }
    }
    out.push_back(std::move(d));
  }
  for (const auto& [name, y] : b) {
    if (!a.count(name)) out.push_back({.name = name, .format_a = {}, .format_b = y.format, .shape = y.shape});
  }
  std::stable_sort(out.begin(), out.end(), [](const TensorDifference& x, const TensorDifference& y) {
    const double ex = x.relative_error(), ey = y.relative_error();
    return ex != ey ? ex > ey : x.name < y.name;
  });
  return out;
}
}  // namespace nibble
