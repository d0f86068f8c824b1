// The weight quantizers. Compiled with --fmad=false: a contracted multiply-add would round once where the CPU rounds twice, and choose another scale.
//
// NVFP4: one CTA a row, one thread a block of 16. A thread walks the candidates up from the scale that takes its largest weight to 6, then down, and stops where no
// later one can win (as kernels/cpu/quantize_avx512.cpp explains): some 20 of the 126. Bound by arithmetic: a division and some ten f32 and f64 operations per
// weight and candidate. Sums of errors are added by one thread in the order of the blocks.
//
// FP8: one CTA a block of 128x128, held in shared memory; one thread for each of 39 multipliers and 16 lanes, since the CPU sums into 16 lanes.
#include "kernels/cuda/quantize_weights.h"

namespace nibble::cuda {
namespace {
constexpr int kNvfp4 = 16, kFp8 = 128, kCandidates = 126;

__device__ __forceinline__ float value(__nv_bfloat16 x) { return __bfloat162float(x); }

__device__ __forceinline__ float e4m3_value(int code) {
  return code < 8 ? static_cast<float>(code) * 0x1p-9f : __uint_as_float((static_cast<uint32_t>(code >> 3) + 120) << 23 | static_cast<uint32_t>(code & 7) << 20);
}
// 0 <= a <= 448, to nearest, ties to even.
__device__ __forceinline__ int e4m3_code(float a) {
  if (a < 0x1p-6f) return static_cast<int>(rintf(a * 0x1p9f));
  const uint32_t bits = __float_as_uint(a);
  return static_cast<int>((bits + 0x7ffffu + (bits >> 20 & 1)) >> 20) - (120 << 3);
}
__device__ __forceinline__ int e2m1_magnitude(float a) { return (a > 0.25f) + (a >= 0.75f) + (a > 1.25f) + (a >= 1.75f) + (a > 2.5f) + (a >= 3.5f) + (a > 5.0f); }
__device__ __forceinline__ float e2m1_value(int magnitude) { return magnitude < 5 ? 0.5f * static_cast<float>(magnitude) : magnitude == 5 ? 3.0f : magnitude == 6 ? 4.0f : 6.0f; }
// e2m1_value(e2m1_magnitude(a)) by roundings: steps of 0.5 up to 2, of 1 up to 4, of 2 beyond.
__device__ __forceinline__ float e2m1_round(float a) {
  const float halves = rintf(a * 2.0f) * 0.5f, ones = rintf(a), twos = rintf(a * 0.5f) * 2.0f;
  return fminf(a < 2.0f ? halves : a < 4.0f ? ones : twos, 6.0f);
}
__device__ __forceinline__ double square_of_difference(float a, float b) {
  const double d = static_cast<double>(a) - static_cast<double>(b);
  return d * d;
}
// Lane i + lane i + 8, then 4, 2, 1.
__device__ __forceinline__ double tree_sum(const double (&t)[kNvfp4]) {
  double eight[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) eight[i] = t[i] + t[i + 8];
  return ((eight[0] + eight[4]) + (eight[2] + eight[6])) + ((eight[1] + eight[5]) + (eight[3] + eight[7]));
}

struct Block {
  float a[kNvfp4];  // magnitudes
  float largest;
};

__device__ __forceinline__ double loss_of(const Block& b, float s, double* zeroed) {
  double terms[kNvfp4], zeros[kNvfp4];
#pragma unroll
  for (int i = 0; i < kNvfp4; ++i) {
    const float t = b.a[i] / s;
    terms[i] = square_of_difference(b.a[i], e2m1_round(t) * s);
    zeros[i] = t <= 0.25f ? static_cast<double>(b.a[i]) * static_cast<double>(b.a[i]) : 0.0;
  }
  *zeroed = tree_sum(zeros);
  return tree_sum(terms);
}

// candidates: [127], of which 1 to 126 are s_c. skips: they ascend and none is subnormal.
__device__ int search(const Block& b, float tensor_amax, const float* candidates, bool skips) {
  if (b.largest == 0.0f) return 1;
  double zeroed;
  int best = 1;
  if (!skips) {
    double best_loss = loss_of(b, candidates[1], &zeroed);
    for (int c = 2; c <= kCandidates; ++c) {
      const double loss = loss_of(b, candidates[c], &zeroed);
      if (loss < best_loss) best_loss = loss, best = c;
    }
    return best;
  }
  const float wanted = b.largest / tensor_amax * 448.0f;
  int start = 1;
  for (int step = 64; step > 0; step >>= 1) {  // the first e4m3 value that is not smaller, or the last
    if (start + step <= kCandidates && e4m3_value(start + step - 1) < wanted) start += step;
  }
  best = start;
  double best_loss = loss_of(b, candidates[start], &zeroed);
  for (int c = start + 1; c <= kCandidates; ++c) {
    const double loss = loss_of(b, candidates[c], &zeroed);
    if (loss < best_loss) best_loss = loss, best = c;
    if (zeroed >= best_loss) break;
  }
  for (int c = start - 1; c >= 1; --c) {
    const double short_by = static_cast<double>(b.largest) - static_cast<double>(6.0f * candidates[c]);
    if (short_by > 0 && short_by * short_by > best_loss) break;
    const double loss = loss_of(b, candidates[c], &zeroed);
    if (loss <= best_loss) best_loss = loss, best = c;
  }
  return best;
}

// The squared error of a block under a scale; codes as two words, if wanted.
__device__ __forceinline__ double encode(const __nv_bfloat16* w, float scale, uint2* codes, int* zeros, int* saturated) {
  uint32_t words[2] = {0, 0};
  double sum = 0;
  *zeros = *saturated = 0;
#pragma unroll
  for (int i = 0; i < kNvfp4; ++i) {
    const float x = value(w[i]), t = x / scale;
    const int magnitude = e2m1_magnitude(fabsf(t));
    words[i / 8] |= static_cast<uint32_t>(magnitude | (t < 0.0f ? 8 : 0)) << (i % 8 * 4);
    sum += square_of_difference(fabsf(x), e2m1_value(magnitude) * scale);
    *zeros += magnitude == 0;
    *saturated += magnitude == 7 && fabsf(x) > 6.0f * scale;
  }
  *codes = {words[0], words[1]};
  return sum;
}

constexpr int kThreads = 128;

__global__ __launch_bounds__(kThreads) void nvfp4_kernel(const __nv_bfloat16* __restrict__ weight, int64_t blocks, float tensor_amax, float tensor_scale, bool mse, uint2* __restrict__ codes,
                                                         uint8_t* __restrict__ scales, QuantError* __restrict__ errors) {
  __shared__ float candidates[kCandidates + 1];
  __shared__ double weight_sq[kThreads], error_sq[kThreads], max_error_sq[kThreads];
  __shared__ int zeros_of[kThreads], saturated_of[kThreads], moved_of[kThreads];
  for (int c = 1 + static_cast<int>(threadIdx.x); c <= kCandidates; c += kThreads) {
    const float s = tensor_amax * (e4m3_value(c) * kReciprocal448) * kReciprocal6;
    candidates[c] = s == 0.0f ? 1.0f : s;
  }
  const int64_t first = static_cast<int64_t>(blockIdx.x) * blocks;
  const bool zero = tensor_amax == 0.0f, skips = tensor_amax > 1e-30f;
  QuantError sum;
  for (int64_t begin = 0; begin < blocks; begin += kThreads) {
    __syncthreads();
    const int64_t index = begin + threadIdx.x;
    if (index < blocks) {
      __align__(16) __nv_bfloat16 w[kNvfp4];
      const uint4* const from = reinterpret_cast<const uint4*>(weight + (first + index) * kNvfp4);
      reinterpret_cast<uint4*>(w)[0] = from[0];
      reinterpret_cast<uint4*>(w)[1] = from[1];
      Block b;
      b.largest = 0.0f;
      double squares = 0;
#pragma unroll
      for (int i = 0; i < kNvfp4; ++i) {
        b.a[i] = fabsf(value(w[i]));
        b.largest = fmaxf(b.largest, b.a[i]);
        squares += static_cast<double>(b.a[i]) * static_cast<double>(b.a[i]);
      }
      int by_max = 0x38;
      if (!zero) {
        const float r = b.largest / (6.0f * tensor_scale);
        by_max = e4m3_code(fminf(fmaxf(r == 0.0f ? 1.0f : r, 0x1p-9f), 448.0f));
      }
      const int code = mse && !zero ? search(b, tensor_amax, candidates, skips) : by_max;
      uint2 packed, other;
      int zeros, saturated, unused;
      const double error = encode(w, e4m3_value(code) * tensor_scale, &packed, &zeros, &saturated);
      scales[first + index] = static_cast<uint8_t>(code);
      codes[first + index] = packed;
      weight_sq[threadIdx.x] = squares;
      error_sq[threadIdx.x] = error;
      max_error_sq[threadIdx.x] = code == by_max ? error : encode(w, e4m3_value(by_max) * tensor_scale, &other, &unused, &unused);
      zeros_of[threadIdx.x] = zeros;
      saturated_of[threadIdx.x] = saturated;
      moved_of[threadIdx.x] = code != by_max;
    }
    __syncthreads();
    if (threadIdx.x != 0) continue;
    const int n = static_cast<int>(blocks - begin < kThreads ? blocks - begin : kThreads);
    for (int i = 0; i < n; ++i) {
      sum.weight_sq += weight_sq[i];
      sum.error_sq += error_sq[i];
      sum.max_error_sq += max_error_sq[i];
      sum.zeros += zeros_of[i];
      sum.saturated += saturated_of[i];
      sum.moved_blocks += moved_of[i];
    }
    sum.blocks += n;
  }
  if (threadIdx.x == 0) errors[blockIdx.x] = sum;
}

// |v| rounded to e4m3's grid, with v's sign: as arithmetic, saturating.
__device__ __forceinline__ float round_e4m3(float v) {
  const float a = fminf(fabsf(v), 448.0f);
  const uint32_t bits = __float_as_uint(a);
  const float normal = __uint_as_float((bits + 0x7ffffu + (bits >> 20 & 1)) & ~0xfffffu), subnormal = (a + 0x1p14f) - 0x1p14f;
  return copysignf(a < 0x1p-6f ? subnormal : normal, v);
}

constexpr int kMultipliers = 39, kLanes = 16, kFp8Threads = kMultipliers * kLanes;  // 624

__global__ __launch_bounds__(kFp8Threads) void fp8_kernel(const __nv_bfloat16* __restrict__ weight, int64_t rows, int64_t cols, bool mse, uint8_t* __restrict__ codes,
                                                          float* __restrict__ scales, QuantError* __restrict__ errors) {
  __shared__ __nv_bfloat16 w[kFp8][kFp8];
  __shared__ uint32_t largest_bits;
  __shared__ double losses[kMultipliers];
  __shared__ float chosen;
  __shared__ double row_sums[3][kFp8];
  __shared__ int row_counts[2][kFp8];
  const int64_t block_cols = (cols + kFp8 - 1) / kFp8, r0 = blockIdx.x / block_cols * kFp8, c0 = blockIdx.x % block_cols * kFp8;
  const int num_rows = static_cast<int>(rows - r0 < kFp8 ? rows - r0 : kFp8), num_cols = static_cast<int>(cols - c0 < kFp8 ? cols - c0 : kFp8);
  if (threadIdx.x == 0) largest_bits = 0;
  __syncthreads();
  uint32_t here = 0;
  for (int i = static_cast<int>(threadIdx.x); i < num_rows * kFp8; i += kFp8Threads) {
    const int r = i / kFp8, c = i % kFp8;
    if (c >= num_cols) continue;
    w[r][c] = weight[(r0 + r) * cols + c0 + c];
    here = max(here, __float_as_uint(fabsf(value(w[r][c]))));
  }
  atomicMax(&largest_bits, here);
  __syncthreads();
  const float amax = __uint_as_float(largest_bits), by_max = (amax == 0.0f ? 448.0f : amax) * kReciprocal448;

  if (mse && amax > 0.0f) {
    const int i = static_cast<int>(threadIdx.x) / kLanes, lane = static_cast<int>(threadIdx.x) % kLanes;
    constexpr float step = (4.0f - 0.25f) / 38.0f;
    const float m = i < 19 ? 0.25f + step * static_cast<float>(i) : 4.0f - step * static_cast<float>(38 - i);
    const float a = value(__float2bfloat16_rn(amax * m)), k = a <= 0x1p-24f ? 448.0f : 448.0f / a, reciprocal = 1.0f / k;
    double loss = 0;
    for (int r = 0; r < num_rows; ++r) {
      for (int c = lane; c < num_cols; c += kLanes) {
        const float x = value(w[r][c]);
        loss += square_of_difference(x, round_e4m3(x * k) * reciprocal);
      }
    }
    // 624 threads are 19 warps and a half: each half warp adds its own lanes.
    const unsigned mask = 0xffffu << (threadIdx.x & 16);
    for (int width = 8; width >= 1; width /= 2) loss += __shfl_down_sync(mask, loss, width, kLanes);
    if (lane == 0) losses[i] = loss;
    __syncthreads();
    if (threadIdx.x == 0) {
      int best = 0;
      for (int j = 1; j < kMultipliers; ++j) best = losses[j] < losses[best] ? j : best;
      const float best_m = best < 19 ? 0.25f + step * static_cast<float>(best) : 4.0f - step * static_cast<float>(38 - best);
      chosen = value(__float2bfloat16_rn(amax * best_m));
    }
    __syncthreads();
  } else {
    if (threadIdx.x == 0) chosen = amax;
    __syncthreads();
  }
  const float scale = (chosen == 0.0f ? 448.0f : chosen) * kReciprocal448;
  for (int i = static_cast<int>(threadIdx.x); i < num_rows * kFp8; i += kFp8Threads) {
    const int r = i / kFp8, c = i % kFp8;
    if (c >= num_cols) continue;
    const float t = value(w[r][c]) / scale;
    codes[(r0 + r) * cols + c0 + c] = static_cast<uint8_t>(e4m3_code(fminf(fabsf(t), 448.0f)) | (signbit(t) ? 0x80 : 0));
  }
  if (threadIdx.x < num_rows) {
    const int r = static_cast<int>(threadIdx.x);
    double weight_sq = 0, error_sq = 0, max_error_sq = 0;
    int zeros = 0, saturated = 0;
    for (int c = 0; c < num_cols; ++c) {
      const float x = value(w[r][c]), t = x / scale, q = round_e4m3(t);
      weight_sq += static_cast<double>(x) * static_cast<double>(x);
      const double error = square_of_difference(x, q * scale);
      error_sq += error;
      max_error_sq += scale == by_max ? error : square_of_difference(x, round_e4m3(x / by_max) * by_max);
      zeros += q == 0.0f;
      saturated += fabsf(t) > 448.0f;
    }
    row_sums[0][r] = weight_sq;
    row_sums[1][r] = error_sq;
    row_sums[2][r] = max_error_sq;
    row_counts[0][r] = zeros;
    row_counts[1][r] = saturated;
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  QuantError sum;
  sum.blocks = 1;
  sum.moved_blocks = scale != by_max;
  for (int r = 0; r < num_rows; ++r) {
    sum.weight_sq += row_sums[0][r];
    sum.error_sq += row_sums[1][r];
    sum.max_error_sq += row_sums[2][r];
    sum.zeros += row_counts[0][r];
    sum.saturated += row_counts[1][r];
  }
  scales[blockIdx.x] = scale;
  errors[blockIdx.x] = sum;
}

// One CTA a row. Bound by memory.
__global__ void row_amax_kernel(const __nv_bfloat16* __restrict__ x, float* __restrict__ largest, int64_t cols) {
  __shared__ uint32_t most;
  if (threadIdx.x == 0) most = 0;
  __syncthreads();
  uint32_t here = 0;
  for (int64_t i = threadIdx.x; i < cols; i += blockDim.x) here = max(here, __float_as_uint(fabsf(value(x[static_cast<int64_t>(blockIdx.x) * cols + i]))));
  atomicMax(&most, here);
  __syncthreads();
  if (threadIdx.x == 0) largest[blockIdx.x] = __uint_as_float(most);
}
}  // namespace

void row_amax(const __nv_bfloat16* x, float* largest, int64_t rows, int64_t cols, cudaStream_t stream) {
  if (rows > 0) row_amax_kernel<<<static_cast<unsigned>(rows), 256, 0, stream>>>(x, largest, cols);
}

void quantize_nvfp4(const __nv_bfloat16* w, int64_t rows, int64_t cols, float tensor_amax, ScaleSearch search, uint8_t* codes, uint8_t* scales, QuantError* errors, cudaStream_t stream) {
  const float tensor_scale = tensor_amax == 0.0f ? 1.0f : tensor_amax * kReciprocal2688;
  nvfp4_kernel<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(w, cols / kNvfp4, tensor_amax, tensor_scale, search == ScaleSearch::mse, reinterpret_cast<uint2*>(codes), scales, errors);
}

void quantize_fp8(const __nv_bfloat16* w, int64_t rows, int64_t cols, ScaleSearch search, uint8_t* codes, float* scales, QuantError* errors, cudaStream_t stream) {
  const int64_t blocks = (rows + kFp8 - 1) / kFp8 * ((cols + kFp8 - 1) / kFp8);
  fp8_kernel<<<static_cast<unsigned>(blocks), kFp8Threads, 0, stream>>>(w, rows, cols, search == ScaleSearch::mse, codes, scales, errors);
}
}  // namespace nibble::cuda
