#include "kernels/cuda/media_embed.h"

#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/media_embed.h"

namespace nibble::cuda {
namespace {
// Grid: a CTA a row. Bound by: nothing that matters, a picture has 1120 rows at most and comes once.
constexpr int kThreads = 512, kWarps = kThreads / 32;

// The sum over the CTA, the same in every thread, in a fixed order.
__device__ double block_sum(double value) {
  __shared__ double sums[kWarps];
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
  __syncthreads();  // an earlier sum is read
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
  __syncthreads();
  value = sums[threadIdx.x % kWarps];
#pragma unroll
  for (int offset = kWarps / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
  return value;
}

struct Moments {
  double mean, inverse;
};
template <typename Value>
__device__ Moments moments(int width, const Value& value) {
  double sum = 0.0, squares = 0.0;
  for (int i = threadIdx.x; i < width; i += kThreads) sum += double{value(i)};
  const double mean = block_sum(sum) / width;
  for (int i = threadIdx.x; i < width; i += kThreads) squares += (double{value(i)} - mean) * (double{value(i)} - mean);
  return {mean, 1.0 / sqrt(block_sum(squares) / width + double{kLayerNormEps})};
}
// As the CPU writes it: no multiply-add.
__device__ float normed(float x, const Moments& m, __nv_bfloat16 weight, __nv_bfloat16 bias) {
  return __fadd_rn(__fmul_rn(static_cast<float>((double{x} - m.mean) * m.inverse), __bfloat162float(weight)), __bfloat162float(bias));
}
template <typename Value>
__device__ float inverse_rms(int width, float eps, const Value& value) {
  double squares = 0.0;
  for (int i = threadIdx.x; i < width; i += kThreads) squares += double{value(i)} * double{value(i)};
  return static_cast<float>(1.0 / sqrt(block_sum(squares) / width + double{eps}));
}

__global__ void __launch_bounds__(kThreads) patches(const uint8_t* pixels, const __nv_bfloat16* weight, const __nv_bfloat16* bias, __nv_bfloat16* out, int width) {
  let_next_kernel_start();
  wait_for_earlier_kernels();
  const int64_t row = int64_t{blockIdx.x} * width;
  const auto value = [&](int i) { return __bfloat162float(__float2bfloat16(static_cast<float>(pixels[row + i]) * (1.0f / 255.0f))); };
  const Moments m = moments(width, value);
  for (int i = threadIdx.x; i < width; i += kThreads) out[row + i] = __float2bfloat16(normed(value(i), m, weight[i], bias[i]));
}

// A thread's values stay its own from pass to pass, so x needs no barrier.
__global__ void __launch_bounds__(kThreads) positions(const __grid_constant__ PatchPosition a) {
  let_next_kernel_start();
  wait_for_earlier_kernels();
  float* const x = a.x + int64_t{blockIdx.x} * a.width;
  const int patch = a.first_patch + static_cast<int>(blockIdx.x), column = patch % a.columns, line = patch / a.columns;
  const __nv_bfloat16* const across = a.positions + int64_t{column} * 2 * a.width;
  const __nv_bfloat16* const down = a.positions + (int64_t{line} * 2 + 1) * a.width;
  const auto value = [&](int i) { return x[i]; };
  for (int i = threadIdx.x; i < a.width; i += kThreads) x[i] = __fadd_rn(x[i], __bfloat162float(a.dense_bias[i]));
  const Moments first = moments(a.width, value);
  for (int i = threadIdx.x; i < a.width; i += kThreads) {
    x[i] = __fadd_rn(normed(x[i], first, a.ln_weight[i], a.ln_bias[i]), __fadd_rn(__bfloat162float(across[i]), __bfloat162float(down[i])));
  }
  const Moments second = moments(a.width, value);
  for (int i = threadIdx.x; i < a.width; i += kThreads) x[i] = normed(x[i], second, a.norm_weight[i], a.norm_bias[i]);
  const float inverse = inverse_rms(a.width, a.eps, value);
  for (int i = threadIdx.x; i < a.width; i += kThreads) a.out[int64_t{blockIdx.x} * a.width + i] = __float2bfloat16(x[i] * inverse);
}

__global__ void __launch_bounds__(kThreads) frames(const float* samples, __nv_bfloat16* out, int width, float eps) {
  let_next_kernel_start();
  wait_for_earlier_kernels();
  const int64_t row = int64_t{blockIdx.x} * width;
  const auto value = [&](int i) { return __bfloat162float(__float2bfloat16(samples[row + i])); };
  const float inverse = inverse_rms(width, eps, value);
  for (int i = threadIdx.x; i < width; i += kThreads) out[row + i] = __float2bfloat16(value(i) * inverse);
}
}  // namespace

void patch_norm(const uint8_t* pixels, const __nv_bfloat16* weight, const __nv_bfloat16* bias, __nv_bfloat16* out, int rows, int width, cudaStream_t stream) {
  launch(patches, dim3(rows), dim3(kThreads), 0, stream, pixels, weight, bias, out, width);
}
void patch_position(const PatchPosition& args, cudaStream_t stream) { launch(positions, dim3(args.rows), dim3(kThreads), 0, stream, args); }
void frame_norm(const float* samples, __nv_bfloat16* out, int rows, int width, float eps, cudaStream_t stream) {
  launch(frames, dim3(rows), dim3(kThreads), 0, stream, samples, out, width, eps);
}
}  // namespace nibble::cuda
