#include "kernels/quantize_weights.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "base/number_formats.h"
#include "base/thread_pool.h"
#include "kernels/cpu/cpu_features.h"
#include "kernels/linear.h"

// Loops that the compiler turns into vectors by itself, in the widest set that the processor has.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
#define NB_WIDEST __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define NB_WIDEST
#endif

namespace nibble {
void QuantError::add(const QuantError& other) {
  weight_sq += other.weight_sq;
  error_sq += other.error_sq;
  max_error_sq += other.max_error_sq;
  zeros += other.zeros;
  saturated += other.saturated;
  blocks += other.blocks;
  moved_blocks += other.moved_blocks;
}

namespace cpu {
namespace {
inline float value(uint16_t bits) { return to_float(bf16{bits}); }

// Partial results in the order of the parts, whatever thread made them.
template <typename Body>
QuantError sum_of_parts(int64_t num_parts, ThreadPool& threads, const Body& body) {
  std::vector<QuantError> parts(static_cast<size_t>(num_parts));
  threads.run(num_parts, [&](int64_t part) { parts[static_cast<size_t>(part)] = body(part); });
  QuantError total;
  for (const QuantError& part : parts) total.add(part);
  return total;
}

float candidate(uint8_t code, float tensor_amax) { return nvfp4_candidate(to_float(e4m3{code}), tensor_amax); }

// Lane i + lane i + 8, then 4, 2, 1.
double tree_sum(double* terms) {
  for (int width = 8; width >= 1; width /= 2) {
    for (int i = 0; i < width; ++i) terms[i] += terms[i + width];
  }
  return terms[0];
}

uint8_t max_scale(const uint16_t* block, float s2) {
  float largest = 0.0f;
  for (int i = 0; i < kNvfp4Block; ++i) largest = std::max(largest, std::fabs(value(block[i])));
  float r = largest / (6.0f * s2);
  if (r == 0.0f) r = 1.0f;
  return to_e4m3(std::clamp(r, 0x1p-9f, 448.0f)).bits;
}

void encode_block(const uint16_t* block, float scale, uint8_t* codes) {
  for (int i = 0; i < kNvfp4Block; i += 2) {
    codes[i / 2] = static_cast<uint8_t>(to_e2m1(value(block[i]) / scale) | to_e2m1(value(block[i + 1]) / scale) << 4);
  }
}

double block_error(const uint16_t* block, float scale, const uint8_t* codes) {
  double sum = 0;
  for (int i = 0; i < kNvfp4Block; ++i) {
    const double d = static_cast<double>(value(block[i])) - static_cast<double>(e2m1_to_float(static_cast<uint8_t>(codes[i / 2] >> (i % 2 * 4))) * scale);
    sum += d * d;
  }
  return sum;
}

// e4m3 rounding of |v| as arithmetic, for the search: nearest, ties to even, saturating.
inline float round_e4m3(float v) {
  const float a = std::min(std::fabs(v), 448.0f);
  const uint32_t bits = std::bit_cast<uint32_t>(a);
  const float normal = std::bit_cast<float>((bits + 0x7ffffu + (bits >> 20 & 1)) & ~0xfffffu);
  const float subnormal = (a + 0x1p14f) - 0x1p14f;  // a multiple of 2^-9: the last bit of 2^14 in f32
  return std::copysign(a < 0x1p-6f ? subnormal : normal, v);
}

inline double square_of_difference(float a, float b) {
  const double d = static_cast<double>(a) - static_cast<double>(b);
  return d * d;
}

// Squared error of one row of an FP8 block, into 16 lanes.
NB_WIDEST void add_fp8_losses(const float* w, int64_t n, float k, float reciprocal, double* lanes) {
  for (int64_t i = 0; i + 16 <= n; i += 16) {
    for (int64_t lane = 0; lane < 16; ++lane) {
      const double d = static_cast<double>(w[i + lane]) - static_cast<double>(round_e4m3(w[i + lane] * k) * reciprocal);
      lanes[lane] += d * d;
    }
  }
  for (int64_t i = n - n % 16; i < n; ++i) {
    const double d = static_cast<double>(w[i]) - static_cast<double>(round_e4m3(w[i] * k) * reciprocal);
    lanes[i % 16] += d * d;
  }
}

NB_WIDEST uint32_t largest_bits(const uint16_t* w, int64_t n) {
  uint16_t largest = 0;
  for (int64_t i = 0; i < n; ++i) largest = std::max(largest, static_cast<uint16_t>(w[i] & 0x7fff));
  return largest;
}

struct Fp8Block {
  std::vector<float> w;  // [rows, cols]
  int64_t rows, cols;
};

float search_fp8(const Fp8Block& block, float amax) {
  float best_amax = amax;
  double best_loss = INFINITY;
  for (int i = 0; i < 39; ++i) {
    // As linspace makes it: from the nearer end.
    const float step = (4.0f - 0.25f) / 38.0f;
    const float m = i < 19 ? 0.25f + step * static_cast<float>(i) : 4.0f - step * static_cast<float>(38 - i);
    const float a = to_float(to_bf16(amax * m));
    const float k = a <= 0x1p-24f ? 448.0f : 448.0f / a;
    double lanes[16] = {};
    for (int64_t r = 0; r < block.rows; ++r) add_fp8_losses(block.w.data() + r * block.cols, block.cols, k, 1.0f / k, lanes);
    const double loss = tree_sum(lanes);
    if (loss < best_loss) best_loss = loss, best_amax = a;
  }
  return best_amax;
}
}  // namespace

float largest_magnitude(const Tensor& weight, ThreadPool& threads) {
  const int64_t rows = weight.rows(), cols = weight.cols();
  std::atomic<uint32_t> largest{0};
  threads.run(rows, [&](int64_t row) {
    const uint32_t here = largest_bits(weight.as<uint16_t>() + row * cols, cols);
    uint32_t seen = largest.load();
    while (here > seen && !largest.compare_exchange_weak(seen, here)) {}
  });
  if (largest.load() >= 0x7f80) raise(ErrorCode::corrupt, "holds NaN or infinity");
  return value(static_cast<uint16_t>(largest.load()));
}

void row_amax(const Tensor& x, float* largest, ThreadPool& threads) {
  NB_ASSERT(x.dtype == DType::bf16 || x.dtype == DType::f32, "bf16 or f32");
  const int64_t rows = x.shape[0], cols = rows > 0 ? x.count() / rows : 0;
  threads.run(rows, [&](int64_t row) {
    if (x.dtype == DType::bf16) {
      largest[row] = value(static_cast<uint16_t>(largest_bits(x.as<uint16_t>() + row * cols, cols)));
    } else {
      const uint32_t* const from = x.as<uint32_t>() + row * cols;
      uint32_t most = 0;  // as integers magnitudes are ordered the same way, and NaN is the largest
      for (int64_t i = 0; i < cols; ++i) most = std::max(most, from[i] & 0x7fffffffu);
      largest[row] = std::bit_cast<float>(most);
    }
  });
}

float nvfp4_tensor_scale(float tensor_amax) { return tensor_amax == 0.0f ? 1.0f : tensor_amax * kReciprocal2688; }

uint8_t search_nvfp4_scale_plain(const uint16_t* block, float tensor_amax) {
  uint8_t best = 1;
  double best_loss = INFINITY;
  for (uint8_t code = 0x01; code <= 0x7e; ++code) {
    const float s = candidate(code, tensor_amax);
    double terms[kNvfp4Block];
    for (int i = 0; i < kNvfp4Block; ++i) {
      const float a = std::fabs(value(block[i])), q = e2m1_to_float(to_e2m1(a / s)) * s;
      const double d = static_cast<double>(a) - static_cast<double>(q);
      terms[i] = d * d;
    }
    const double loss = tree_sum(terms);
    if (loss < best_loss) best_loss = loss, best = code;
  }
  return best;
}

QuantError quantize_nvfp4(const QuantizeNvfp4Args& args, ThreadPool& threads) {
  const int64_t rows = args.weight.rows(), cols = args.weight.cols(), blocks = cols / kNvfp4Block;
  NB_ASSERT(cols % kNvfp4Block == 0 && args.codes.count() == rows * cols / 2 && args.block_scales.count() == rows * blocks, "NVFP4 shapes do not fit");
  const float s2 = nvfp4_tensor_scale(args.tensor_amax);
  const bool zero = args.tensor_amax == 0.0f;
  std::array<float, 127> candidates{};
  for (uint8_t code = 1; code <= 0x7e; ++code) candidates[code] = candidate(code, args.tensor_amax);
  const bool fast = active_isa() >= Isa::avx512;
  const bool skips = fast && args.tensor_amax > 1e-30f;  // no candidate is 0 or subnormal: they ascend

  return sum_of_parts(rows, threads, [&](int64_t row) {
    QuantError sum;
    uint8_t other[kNvfp4Block / 2];
    for (int64_t b = 0; b < blocks; ++b) {
      const uint16_t* block = args.weight.as<uint16_t>() + row * cols + b * kNvfp4Block;
      const uint8_t by_max = zero ? 0x38 : max_scale(block, s2);
      uint8_t code = by_max;
      if (!zero && args.search == ScaleSearch::mse) {
        code = skips ? avx512::search_nvfp4_scale(block, args.tensor_amax, candidates.data()) : search_nvfp4_scale_plain(block, args.tensor_amax);
      }
      args.block_scales.as<uint8_t>()[row * blocks + b] = code;
      uint8_t* codes = args.codes.as<uint8_t>() + (row * cols + b * kNvfp4Block) / 2;
      const auto encode = fast ? avx512::encode_nvfp4_block : encode_block;
      const float scale = to_float(e4m3{code}) * s2;
      encode(block, scale, codes);
      const double error = block_error(block, scale, codes);
      sum.error_sq += error;
      ++sum.blocks;
      if (code == by_max) {
        sum.max_error_sq += error;
      } else {
        ++sum.moved_blocks;
        const float max_scale = to_float(e4m3{by_max}) * s2;
        encode(block, max_scale, other);
        sum.max_error_sq += block_error(block, max_scale, other);
      }
      double weight_sq = 0;  // sums go block by block, so that a device can make them in the same order
      for (int i = 0; i < kNvfp4Block; ++i) {
        const double w = static_cast<double>(value(block[i]));
        weight_sq += w * w;
        const int magnitude = codes[i / 2] >> (i % 2 * 4) & 7;
        sum.zeros += magnitude == 0;
        sum.saturated += magnitude == 7 && std::fabs(value(block[i])) > 6.0f * scale;
      }
      sum.weight_sq += weight_sq;
    }
    return sum;
  });
}

QuantError quantize_fp8(const QuantizeFp8Args& args, ThreadPool& threads) {
  const int64_t rows = args.weight.rows(), cols = args.weight.cols();
  const int64_t block_rows = (rows + kFp8Block - 1) / kFp8Block, block_cols = (cols + kFp8Block - 1) / kFp8Block;
  NB_ASSERT(args.codes.count() == rows * cols && args.scales.count() == block_rows * block_cols, "FP8 shapes do not fit");
  return sum_of_parts(block_rows * block_cols, threads, [&](int64_t part) {
    const int64_t r0 = part / block_cols * kFp8Block, c0 = part % block_cols * kFp8Block;
    Fp8Block block{{}, std::min(kFp8Block, rows - r0), std::min(kFp8Block, cols - c0)};
    block.w.resize(static_cast<size_t>(block.rows * block.cols));
    float amax = 0.0f;
    for (int64_t r = 0; r < block.rows; ++r) {
      for (int64_t c = 0; c < block.cols; ++c) {
        const float w = value(args.weight.as<uint16_t>()[(r0 + r) * cols + c0 + c]);
        block.w[static_cast<size_t>(r * block.cols + c)] = w;
        amax = std::max(amax, std::fabs(w));
      }
    }
    const float by_max = (amax == 0.0f ? 448.0f : amax) * kReciprocal448;
    if (amax > 0.0f && args.search == ScaleSearch::mse) amax = search_fp8(block, amax);
    const float scale = (amax == 0.0f ? 448.0f : amax) * kReciprocal448;
    args.scales.as<float>()[part] = scale;
    QuantError sum{.blocks = 1, .moved_blocks = scale != by_max};
    for (int64_t r = 0; r < block.rows; ++r) {
      QuantError in_row;
      for (int64_t c = 0; c < block.cols; ++c) {
        const float w = block.w[static_cast<size_t>(r * block.cols + c)], t = w / scale;
        const e4m3 code = to_e4m3(t);
        args.codes.as<uint8_t>()[(r0 + r) * cols + c0 + c] = code.bits;
        in_row.weight_sq += static_cast<double>(w) * static_cast<double>(w);
        in_row.error_sq += square_of_difference(w, to_float(code) * scale);
        in_row.max_error_sq += square_of_difference(w, scale == by_max ? to_float(code) * scale : round_e4m3(w / by_max) * by_max);
        in_row.zeros += (code.bits & 0x7f) == 0;
        in_row.saturated += std::fabs(t) > 448.0f;
      }
      sum.add(in_row);
    }
    return sum;
  });
}
}  // namespace cpu
}  // namespace nibble
