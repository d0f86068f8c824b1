#include "kernels/cpu/linear_dot.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <vector>

#include "base/number_formats.h"
#include "kernels/cpu/cpu_features.h"

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

// What is left after whole vectors, then the sixteen partial sums in a tree.
inline float finish(float* partial, const float* a, const float* b, int64_t i, int64_t n) {
  for (int lane = 0; i < n; ++i, ++lane) partial[lane] += a[i] * b[i];
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int lane = 0; lane < width; ++lane) partial[lane] += partial[lane + width];
  }
  return partial[0];
}

NB_CLONES float dot(const float* a, const float* b, int64_t n) {
  float partial[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) partial[lane] += a[i + lane] * b[i + lane];
  }
  return finish(partial, a, b, i, n);
}

constexpr int kRowsAtOnce = 4;

// out[r * out_stride] = scale * dot(a + r * n, b, n) for four rows.
using DotRows = void (*)(const float* a, const float* b, int64_t n, float scale, float* out, int64_t out_stride);
void dot_rows(const float* a, const float* b, int64_t n, float scale, float* out, int64_t out_stride) {
  for (int r = 0; r < kRowsAtOnce; ++r) out[r * out_stride] = dot(a + r * n, b, n) * scale;
}
#if defined(__x86_64__)
// Each vector of b is loaded once for the four rows, whose sums do not wait for each other. Products and sums are rounded apart, as in dot().
[[gnu::target("avx2")]] void dot_rows_avx2(const float* a, const float* b, int64_t n, float scale, float* out, int64_t out_stride) {
  __m256 low[kRowsAtOnce] = {}, high[kRowsAtOnce] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const __m256 b_low = _mm256_loadu_ps(b + i), b_high = _mm256_loadu_ps(b + i + 8);
#pragma GCC unroll 4
    for (int r = 0; r < kRowsAtOnce; ++r) {
      low[r] = _mm256_add_ps(low[r], _mm256_mul_ps(_mm256_loadu_ps(a + r * n + i), b_low));
      high[r] = _mm256_add_ps(high[r], _mm256_mul_ps(_mm256_loadu_ps(a + r * n + i + 8), b_high));
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRowsAtOnce; ++r) {
    float partial[kLanes];
    _mm256_storeu_ps(partial, low[r]);
    _mm256_storeu_ps(partial + 8, high[r]);
    out[r * out_stride] = finish(partial, a + r * n, b, i, n) * scale;
  }
}
#endif

NB_CLONES void widen_bf16(const uint16_t* from, int64_t n, float* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = to_float(bf16{from[i]});
}

// One row of W as f32, by the plain loops: the codes are looked up one by one, which no compiler turns into vectors.
void widen_nvfp4(const uint8_t* codes, const e4m3* scales, float tensor_scale, int64_t k, float* out) {
  for (int64_t b = 0; b < k / kNvfp4Block; ++b) {
    const float scale = to_float(scales[b]) * tensor_scale;
    for (int64_t i = 0; i < kNvfp4Block / 2; ++i) {
      const uint8_t byte = codes[b * (kNvfp4Block / 2) + i];
      out[b * kNvfp4Block + i * 2] = kE2m1Values[byte & 15] * scale;
      out[b * kNvfp4Block + i * 2 + 1] = kE2m1Values[byte >> 4] * scale;
    }
  }
}
void widen_fp8(const e4m3* codes, float scale, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = to_float(codes[i]) * scale;
}

#if defined(__x86_64__)
// The same values by AVX2. Sixteen codes of a block: one look-up of 2 * e2m1 as bytes, widened; the half that makes up for the 2 is exact.
[[gnu::target("avx2")]] void widen_nvfp4_avx2(const uint8_t* codes, const e4m3* scales, float tensor_scale, int64_t k, float* out) {
  const __m128i doubled = _mm_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12), low = _mm_set1_epi8(15);
  for (int64_t b = 0; b < k / kNvfp4Block; ++b) {
    const __m256 half_scale = _mm256_set1_ps(to_float(scales[b]) * tensor_scale * 0.5f);
    const __m128i c = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes + b * (kNvfp4Block / 2)));
    const __m128i in_order = _mm_unpacklo_epi8(_mm_and_si128(c, low), _mm_and_si128(_mm_srli_epi16(c, 4), low));
    const __m128i values = _mm_shuffle_epi8(doubled, in_order);
    float* to = out + b * kNvfp4Block;
    _mm256_storeu_ps(to, _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(values)), half_scale));
    _mm256_storeu_ps(to + 8, _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(values, 8))), half_scale));
  }
}
// Eight codes: magnitude bits moved into f32's place, the exponent's bias put right by a multiplication, which makes the subnormals right too (2^120 is exact).
[[gnu::target("avx2")]] void widen_fp8_avx2(const e4m3* codes, float scale, int64_t count, float* out) {
  const __m256i magnitude = _mm256_set1_epi32(0x7f), sign = _mm256_set1_epi32(0x80);
  const __m256 bias = _mm256_set1_ps(0x1p120f), scales = _mm256_set1_ps(scale);
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m256i c = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes + i)));
    const __m256i m = _mm256_and_si256(c, magnitude);
    __m256 value = _mm256_mul_ps(_mm256_castsi256_ps(_mm256_slli_epi32(m, 20)), bias);
    value = _mm256_or_ps(value, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_and_si256(c, sign), 24)));
    value = _mm256_or_ps(value, _mm256_castsi256_ps(_mm256_cmpeq_epi32(m, magnitude)));  // the one NaN
    _mm256_storeu_ps(out + i, _mm256_mul_ps(value, scales));
  }
  widen_fp8(codes + i, scale, count - i, out + i);
}
#endif

struct Kernels {
  decltype(&widen_nvfp4) nvfp4 = widen_nvfp4;
  decltype(&widen_fp8) fp8 = widen_fp8;
  DotRows dot_rows = &cpu::dot_rows;
};
const Kernels& active_kernels() {
  static const Kernels chosen = [] {
    Kernels kernels;
#if defined(__x86_64__)
    if (active_isa() >= Isa::avx2) kernels = {widen_nvfp4_avx2, widen_fp8_avx2, dot_rows_avx2};
#endif
    return kernels;
  }();
  return chosen;
}

struct WidenRow {
  int64_t n, k;
  const Kernels& kernels;
  float* out;

  void operator()(const Bf16Weight& w) const { widen_bf16(w.weight.as<uint16_t>() + n * k, k, out); }
  void operator()(const Nvfp4Weight& w) const {
    kernels.nvfp4(w.codes.as<uint8_t>() + n * (k / 2), w.block_scales.as<e4m3>() + n * (k / kNvfp4Block), w.tensor_scale, k, out);
  }
  void operator()(const Fp8BlockWeight& w) const {
    const float* scales = w.scales.as<float>() + (n / kFp8Block) * w.scales.cols();
    for (int64_t i = 0; i < k; i += kFp8Block) kernels.fp8(w.codes.as<e4m3>() + n * k + i, scales[i / kFp8Block], std::min<int64_t>(kFp8Block, k - i), out + i);
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
  const Kernels& kernels = active_kernels();
  constexpr int64_t kPart = 16;  // outputs
  threads.run((n + kPart - 1) / kPart, [&, n = n, k = k](int64_t part) {
    static thread_local std::vector<float> t_row;
    t_row.resize(static_cast<size_t>(k));
    for (int64_t j = part * kPart; j < std::min(n, (part + 1) * kPart); ++j) {
      std::visit(WidenRow{j, k, kernels, t_row.data()}, weight);
      int64_t row = 0;
      for (; row + kRowsAtOnce <= rows; row += kRowsAtOnce) kernels.dot_rows(input + row * k, t_row.data(), k, input_scale, out.as<float>() + row * n + j, n);
      for (; row < rows; ++row) out.as<float>()[row * n + j] = dot(input + row * k, t_row.data(), k) * input_scale;
    }
  });
}
}  // namespace nibble::cpu
