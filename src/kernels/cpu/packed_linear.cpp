#include "kernels/cpu/packed_linear.h"

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "base/number_formats.h"
#include "kernels/cpu/cpu_features.h"
#include "kernels/cpu/linear_avx512_bf16.h"
#include "kernels/cpu/linear_dot.h"

namespace nibble::cpu {
namespace {
struct FreeAligned {
  void operator()(void* p) const noexcept { std::free(p); }
};
using HugeBuffer = std::unique_ptr<uint8_t, FreeAligned>;

// Aligned to 2 MB and marked for huge pages: a stream over a weight of 100 MB would miss the TLB 25,000 times otherwise.
HugeBuffer allocate_huge(int64_t bytes) {
  constexpr size_t kHuge = size_t{2} << 20;
  const size_t alignment = bytes >= static_cast<int64_t>(kHuge) ? kHuge : 64;
  const size_t size = (static_cast<size_t>(bytes) + alignment - 1) / alignment * alignment + (alignment == kHuge ? kHuge : 8192);
  void* memory = std::aligned_alloc(alignment, size / alignment * alignment);
  if (!memory) raise(ErrorCode::out_of_memory, "cannot allocate {} bytes for a packed weight", bytes);
  if (alignment == kHuge) ::madvise(memory, size, MADV_HUGEPAGE);
  return HugeBuffer(static_cast<uint8_t*>(memory));
}

struct CpuLinear final : PreparedLinear {
  LinearWeight stored;           // the checkpoint's own layout
  float activation_scale = 0.0f; // > 0: inputs are rounded to NVFP4 with this global scale
  HugeBuffer memory;
  avx512_bf16::Packed packed{};  // data == nullptr: none
};

// bf16 rows as the packed kernels want them: padded with zeros to `padded` inputs. Returns x itself when nothing is to be done.
const uint16_t* padded_rows(const Tensor& x, int64_t padded, std::vector<uint16_t>& scratch) {
  const int64_t k = x.cols(), rows = x.rows();
  if (padded == k) return x.as<uint16_t>();
  scratch.assign(static_cast<size_t>(rows * padded), 0);
  for (int64_t row = 0; row < rows; ++row) std::memcpy(scratch.data() + row * padded, x.as<uint16_t>() + row * k, static_cast<size_t>(k) * 2);
  return scratch.data();
}
}  // namespace

std::unique_ptr<PreparedLinear> pack_linear(const LinearWeight& weight, ActivationQuant activations, ThreadPool& threads) {
  validate(weight);
  auto linear = std::make_unique<CpuLinear>();
  linear->stored = weight;
  linear->shape = shape_of(weight);
  const auto* nvfp4 = std::get_if<Nvfp4Weight>(&weight);
  if (activations == ActivationQuant::nvfp4 && nvfp4 && nvfp4->input_scale > 0) linear->activation_scale = nvfp4->input_scale;
  const char* format = nvfp4 ? "nvfp4" : std::holds_alternative<Fp8BlockWeight>(weight) ? "fp8-128x128" : "bf16";
  linear->kernel = fmt::format("{} {}", name_of(active_isa()), format);
  if (active_isa() == Isa::avx512_bf16) {
    linear->packed = avx512_bf16::plan(weight);
    const int64_t groups = (linear->shape.out_features + avx512_bf16::kGroup - 1) / avx512_bf16::kGroup;
    linear->bytes = groups * linear->packed.group_bytes;
    linear->memory = allocate_huge(linear->bytes);
    avx512_bf16::pack(weight, linear->packed, linear->memory.get(), threads);
    linear->packed.data = linear->memory.get();
  }
  return linear;
}

void run_linear(const PreparedLinear& prepared, const Tensor& x, const Tensor& out, ThreadPool& threads) {
  const auto& linear = static_cast<const CpuLinear&>(prepared);
  NB_ASSERT(x.cols() == linear.shape.in_features && out.cols() == linear.shape.out_features && x.rows() == out.rows(), "linear: x must be [rows, K], out [rows, N]");
  NB_ASSERT(out.dtype == DType::f32 && (x.dtype == DType::f32 || x.dtype == DType::bf16), "linear: x must be bf16 or f32, out f32");
  if (x.rows() == 0) return;

  Tensor input = x;
  float input_scale = 1.0f;
  static thread_local std::vector<uint16_t> t_quantized, t_padded;
  static thread_local std::vector<float> t_quantized_f32;
  if (linear.activation_scale > 0) {
    input_scale = linear.activation_scale;
    if (x.dtype == DType::f32) {
      t_quantized_f32.resize(static_cast<size_t>(x.count()));
      input.data = t_quantized_f32.data();
    } else {
      t_quantized.resize(static_cast<size_t>(x.count()));
      input.data = t_quantized.data();
    }
    quantize_nvfp4_rows(x, linear.activation_scale, input, threads);
  }
  if (linear.packed.data && input.dtype == DType::bf16) {
    const uint16_t* rows = padded_rows(input, linear.packed.padded_in, t_padded);
    avx512_bf16::run(linear.packed, rows, input.rows(), linear.packed.output_scale * input_scale, out.as<float>(), threads);
  } else {
    linear_dot(linear.stored, input, input_scale, out, threads);
  }
}

void quantize_nvfp4_rows(const Tensor& x, float global_scale, const Tensor& out, ThreadPool& threads) {
  const int64_t k = x.cols();
  NB_ASSERT(k % kNvfp4Block == 0 && x.dtype == out.dtype, "rows must be whole NVFP4 blocks");
  const auto convert = [&](auto* in, auto* to, auto load, auto store) {
    threads.run(x.rows(), [&](int64_t row) {
      for (int64_t b = row * k; b < (row + 1) * k; b += kNvfp4Block) {
        float highest = 0.0f;
        for (int64_t i = 0; i < kNvfp4Block; ++i) highest = std::max(highest, std::fabs(load(in[b + i])));
        const float block_scale = to_float(to_e4m3(highest / 6.0f / global_scale));
        const float step = block_scale * global_scale;
        for (int64_t i = 0; i < kNvfp4Block; ++i) {
          to[b + i] = store(step == 0.0f ? 0.0f : e2m1_to_float(to_e2m1(load(in[b + i]) / step)) * block_scale);
        }
      }
    });
  };
  if (x.dtype == DType::f32) {
    convert(x.as<float>(), out.as<float>(), [](float v) { return v; }, [](float v) { return v; });
  } else {
    convert(x.as<bf16>(), out.as<bf16>(), [](bf16 v) { return to_float(v); }, [](float v) { return to_bf16(v); });
  }
}
}  // namespace nibble::cpu
