#include "kernels/cuda/elementwise.h"

#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/launch.cuh"

namespace nibble::cuda {
namespace {
constexpr int kNormThreads = 512, kNormWarps = kNormThreads / 32;

// The sum over a block, the same in every thread; a fixed tree. Two calls may follow each other: they alternate between halves of `scratch`.
__device__ float block_sum(float value, float* scratch) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
  __syncthreads();
  value = scratch[threadIdx.x % kNormWarps];
#pragma unroll
  for (int offset = kNormWarps / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
  return value;
}

__global__ void embed_rows(const int32_t* ids, const __nv_bfloat16* table, float scale, float* out, int hidden) {
  let_next_kernel_start();
  wait_for_earlier_kernels();
  const __nv_bfloat16* from = table + int64_t{ids[blockIdx.x]} * hidden;
  float* to = out + int64_t{blockIdx.x} * hidden;
  for (int i = threadIdx.x; i < hidden; i += blockDim.x) to[i] = __bfloat162float(__float2bfloat16(__bfloat162float(from[i]) * scale));
}

// Registers hold a row of up to 8192 values: 16 a thread.
constexpr int kPerThread = 16;

__global__ void __launch_bounds__(kNormThreads) norm(const float* x, const __nv_bfloat16* weight, __nv_bfloat16* out, int hidden, float eps) {
  __shared__ float scratch[kNormWarps];
  let_next_kernel_start();
  wait_for_earlier_kernels();
  const float* row = x + int64_t{blockIdx.x} * hidden;
  float values[kPerThread], squares = 0.0f;
#pragma unroll
  for (int j = 0; j < kPerThread; ++j) {
    const int i = j * kNormThreads + threadIdx.x;
    values[j] = i < hidden ? row[i] : 0.0f;
    squares += values[j] * values[j];
  }
  const float inverse = rsqrtf(block_sum(squares, scratch) / static_cast<float>(hidden) + eps);
#pragma unroll
  for (int j = 0; j < kPerThread; ++j) {
    const int i = j * kNormThreads + threadIdx.x;
    if (i < hidden) out[int64_t{blockIdx.x} * hidden + i] = __float2bfloat16(values[j] * inverse * __bfloat162float(weight[i]));
  }
}

__global__ void __launch_bounds__(kNormThreads) norm_add(const __grid_constant__ RmsNormAdd a) {
  __shared__ float scratch[2][kNormWarps];
  let_next_kernel_start();
  // What no kernel writes is fetched while the one ahead still runs.
  float weights[kPerThread], next_weights[kPerThread];
#pragma unroll
  for (int j = 0; j < kPerThread; ++j) {
    const int i = j * kNormThreads + threadIdx.x;
    weights[j] = i < a.hidden ? __bfloat162float(a.weight[i]) : 0.0f;
    next_weights[j] = i < a.hidden && a.next_weight ? __bfloat162float(a.next_weight[i]) : 0.0f;
  }
  wait_for_earlier_kernels();
  const int64_t row = int64_t{blockIdx.x} * a.hidden;
  float x[kPerThread], residual[kPerThread], squares = 0.0f;
#pragma unroll
  for (int j = 0; j < kPerThread; ++j) {
    const int i = j * kNormThreads + threadIdx.x;
    x[j] = residual[j] = 0.0f;
    if (i < a.hidden) {
      x[j] = a.x[row + i];
      residual[j] = a.residual[row + i];
      for (int s = 1; s < a.slices; ++s) x[j] += a.x[s * a.slice_stride + row + i];
    }
    squares += x[j] * x[j];
  }
  const float inverse = rsqrtf(block_sum(squares, scratch[0]) / static_cast<float>(a.hidden) + a.eps);
  squares = 0.0f;
#pragma unroll
  for (int j = 0; j < kPerThread; ++j) {
    residual[j] = (residual[j] + x[j] * inverse * weights[j]) * a.scale;
    squares += residual[j] * residual[j];
    const int i = j * kNormThreads + threadIdx.x;
    if (i < a.hidden) a.residual[row + i] = residual[j];
  }
  if (!a.next_weight) return;
  const float next_inverse = rsqrtf(block_sum(squares, scratch[1]) / static_cast<float>(a.hidden) + a.eps);
#pragma unroll
  for (int j = 0; j < kPerThread; ++j) {
    const int i = j * kNormThreads + threadIdx.x;
    if (i < a.hidden) a.out[row + i] = __float2bfloat16(residual[j] * next_inverse * next_weights[j]);
  }
}

__global__ void gate(const float* g, const float* up, __nv_bfloat16* out, int64_t count) {
  let_next_kernel_start();
  wait_for_earlier_kernels();
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += int64_t{gridDim.x} * blockDim.x) out[i] = __float2bfloat16(gelu_tanh(g[i]) * up[i]);
}

__global__ void cap_logits(float4* x, int64_t count, float cap) {
  let_next_kernel_start();
  wait_for_earlier_kernels();
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += int64_t{gridDim.x} * blockDim.x) {
    float4 v = x[i];
    v.x = cap * tanhf(v.x / cap), v.y = cap * tanhf(v.y / cap), v.z = cap * tanhf(v.z / cap), v.w = cap * tanhf(v.w / cap);
    x[i] = v;
  }
}

__global__ void gather(const float* x, const int32_t* rows, float* out, int hidden) {
  let_next_kernel_start();
  wait_for_earlier_kernels();
  const float* from = x + int64_t{rows[blockIdx.x]} * hidden;
  for (int i = threadIdx.x; i < hidden; i += blockDim.x) out[int64_t{blockIdx.x} * hidden + i] = from[i];
}

__global__ void sum_slices(float* x, int slices, int64_t stride, int64_t count) {
  let_next_kernel_start();
  wait_for_earlier_kernels();
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += int64_t{gridDim.x} * blockDim.x) {
    float total = x[i];
    for (int s = 1; s < slices; ++s) total += x[s * stride + i];
    x[i] = total;
  }
}

__global__ void rotary_table(const int32_t* positions, const float* frequencies, float* cos, float* sin, int pairs) {
  let_next_kernel_start();
  wait_for_earlier_kernels();
  const float position = static_cast<float>(positions[blockIdx.x]);
  for (int p = threadIdx.x; p < pairs; p += blockDim.x) {
    float s, c;
    sincosf(position * frequencies[p], &s, &c);
    sin[int64_t{blockIdx.x} * pairs + p] = s;
    cos[int64_t{blockIdx.x} * pairs + p] = c;
  }
}

int blocks_for(int64_t count) { return static_cast<int>(count / 256 + 1 < 2048 ? count / 256 + 1 : 2048); }
}  // namespace

void embed(const int32_t* ids, const __nv_bfloat16* table, float scale, float* out, int rows, int hidden, cudaStream_t stream) {
  launch(embed_rows, dim3(rows), dim3(256), 0, stream, ids, table, scale, out, hidden);
}
void rms_norm(const float* x, const __nv_bfloat16* weight, __nv_bfloat16* out, int rows, int hidden, float eps, cudaStream_t stream) {
  launch(norm, dim3(rows), dim3(kNormThreads), 0, stream, x, weight, out, hidden, eps);
}
void rms_norm_add(const RmsNormAdd& args, cudaStream_t stream) { launch(norm_add, dim3(args.rows), dim3(kNormThreads), 0, stream, args); }
void gelu_gate(const float* g, const float* up, __nv_bfloat16* out, int64_t count, cudaStream_t stream) {
  launch(gate, dim3(blocks_for(count)), dim3(256), 0, stream, g, up, out, count);
}
void softcap(float* logits, int64_t count, float cap, cudaStream_t stream) {
  launch(cap_logits, dim3(blocks_for(count / 4)), dim3(256), 0, stream, reinterpret_cast<float4*>(logits), count / 4, cap);
}
void gather_rows(const float* x, const int32_t* rows, float* out, int num_rows, int hidden, cudaStream_t stream) {
  launch(gather, dim3(num_rows), dim3(256), 0, stream, x, rows, out, hidden);
}
void add_slices(float* x, int slices, int64_t slice_stride, int64_t count, cudaStream_t stream) {
  launch(sum_slices, dim3(blocks_for(count)), dim3(256), 0, stream, x, slices, slice_stride, count);
}
void rotary(const int32_t* positions, const float* frequencies, float* cos, float* sin, int rows, int pairs, cudaStream_t stream) {
  launch(rotary_table, dim3(rows), dim3(128), 0, stream, positions, frequencies, cos, sin, pairs);
}
}  // namespace nibble::cuda
