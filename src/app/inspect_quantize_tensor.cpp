#include "app/inspect_quantize_tensor.h"

#include <fmt/format.h>

#include <deque>
#include <map>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/error.h"
#include "base/number_formats.h"
#include "base/thread_pool.h"
#include "formats/safetensors.h"
#include "kernels/linear.h"
#include "kernels/quantize_weights.h"

namespace nibble {
namespace {
// Owns what the output's tensors look at.
class Memory {
 public:
  Tensor make(DType dtype, const Shape& shape) {
    auto& bytes = parts_.emplace_back(static_cast<size_t>(shape.count() * size_of(dtype) + 7) / 8);  // words: aligned for every dtype
    return {bytes.data(), dtype, shape};
  }

 private:
  std::deque<std::vector<uint64_t>> parts_;
};

Tensor as_bf16(const std::string& name, const Tensor& t, Memory& memory) {
  if (t.dtype == DType::bf16) return t;
  if (t.dtype != DType::f32) raise(ErrorCode::invalid_argument, "{}: {}, wanted BF16 or F32", name, name_of(t.dtype));
  const Tensor out = memory.make(DType::bf16, t.shape);
  for (int64_t i = 0; i < t.count(); ++i) out.as<bf16>()[i] = to_bf16(t.as<float>()[i]);
  return out;
}
}  // namespace

int inspect_quantize_tensor(const QuantizeTensorFlags& flags) {
  const bool fp4 = flags.format == "nvfp4";
  const ScaleSearch search = flags.calib == "mse" ? ScaleSearch::mse : ScaleSearch::max;
  const TensorFiles files = TensorFiles::open(flags.in);
  ThreadPool threads(flags.threads);
  Memory memory;
  std::map<std::string, Tensor> out;
  for (const auto& [name, stored] : files.tensors()) {
    if (stored.tensor.shape.rank != 2 || stored.tensor.count() == 0) raise(ErrorCode::invalid_argument, "{}: {}: wanted matrices alone", flags.in, name);
    const Tensor w = as_bf16(name, stored.tensor, memory);
    const int64_t rows = w.rows(), cols = w.cols();
    const Tensor dequantized = memory.make(DType::f32, {rows, cols});
    Tensor codes, scales;
    float amax = 0, scale_2 = 1;
    try {
      amax = cpu::largest_magnitude(w, threads);
    } catch (const Error& error) {
      raise(error.code, "{}: {}: {}", flags.in, name, error.message);
    }
    if (fp4) {
      if (cols % kNvfp4Block != 0) raise(ErrorCode::invalid_argument, "{}: {}: {} columns, wanted a multiple of 16", flags.in, name, cols);
      codes = memory.make(DType::u8, {rows, cols / 2});
      scales = memory.make(DType::e4m3, {rows, cols / kNvfp4Block});
      const Tensor second = memory.make(DType::f32, {});
      *second.as<float>() = scale_2 = cpu::nvfp4_tensor_scale(amax);
      cpu::quantize_nvfp4({w, amax, search, codes, scales}, threads);
      out[name + ".weight_scale_2"] = second;
    } else {
      codes = memory.make(DType::e4m3, {rows, cols});
      scales = memory.make(DType::f32, {(rows + kFp8Block - 1) / kFp8Block, 1, (cols + kFp8Block - 1) / kFp8Block, 1});
      cpu::quantize_fp8({w, search, codes, scales}, threads);
    }
    const int64_t block_cols = (cols + kFp8Block - 1) / kFp8Block;
    for (int64_t i = 0; i < rows * cols; ++i) {
      const int64_t row = i / cols, col = i % cols;
      dequantized.as<float>()[i] = fp4 ? e2m1_to_float(static_cast<uint8_t>(codes.as<uint8_t>()[i / 2] >> (i % 2 * 4))) * (to_float(scales.as<e4m3>()[i / kNvfp4Block]) * scale_2)
                                       : to_float(codes.as<e4m3>()[i]) * scales.as<float>()[row / kFp8Block * block_cols + col / kFp8Block];
    }
    out[name + ".weight"] = codes;
    out[name + ".weight_scale"] = scales;
    out[name + ".dequantized"] = dequantized;
  }
  write_safetensors(flags.out, out);
  fmt::print("{}\n", nlohmann::ordered_json{{"matrices", files.tensors().size()}, {"out", flags.out}}.dump());
  return 0;
}
}  // namespace nibble
