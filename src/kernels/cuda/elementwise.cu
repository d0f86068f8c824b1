#include "kernels/cuda/elementwise.h"

#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/launch.cuh"

namespace nibble::cuda {
namespace {
constexpr int kNormThreads = 512, kNormWarps = kNormThreads / 32, kAddThreads = 1024;

// The sum over a block of kWarps warps (a power of two), the same in every thread; a fixed tree. Each call of a kernel has its own scratch.
template <int kWarps>
__device__ float block_sum(float value, float* scratch) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
  __syncthreads();
  value = scratch[threadIdx.x % kWarps];
#pragma unroll
  for (int offset = kWarps / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
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
  const float inverse = rsqrtf(block_sum<kNormWarps>(squares, scratch) / static_cast<float>(hidden) + eps);
#pragma unroll
  for (int j = 0; j < kPerThread; ++j) {
    const int i = j * kNormThreads + threadIdx.x;
    if (i < hidden) out[int64_t{blockIdx.x} * hidden + i] = __float2bfloat16(values[j] * inverse * __bfloat162float(weight[i]));
  }
}

// Four channels a thread and round, all loads of a round under way before the first is used; kRounds * 4096 >= hidden.
template <int kSlices, int kRounds>
__global__ void __launch_bounds__(kAddThreads) norm_add(const __grid_constant__ RmsNormAdd a) {
  __shared__ float scratch[2][kAddThreads / 32];
  let_next_kernel_start();
  const auto widen = [](uint2 v) {
    const float2 low = __bfloat1622float2(reinterpret_cast<const __nv_bfloat162&>(v.x)), high = __bfloat1622float2(reinterpret_cast<const __nv_bfloat162&>(v.y));
    return make_float4(low.x, low.y, high.x, high.y);
  };
  // What no kernel writes is fetched while the one ahead still runs.
  uint2 weights[kRounds], next_weights[kRounds];
#pragma unroll
  for (int j = 0; j < kRounds; ++j) {
    const int i = (j * kAddThreads + threadIdx.x) * 4;
    weights[j] = next_weights[j] = make_uint2(0, 0);
    if (i < a.hidden) {
      weights[j] = *reinterpret_cast<const uint2*>(a.weight + i);
      if (a.next_weight) next_weights[j] = *reinterpret_cast<const uint2*>(a.next_weight + i);
    }
  }
  wait_for_earlier_kernels();
  const int64_t row = int64_t{blockIdx.x} * a.hidden;
  float4 x[kRounds], residual[kRounds];
  float squares = 0.0f;
#pragma unroll
  for (int j = 0; j < kRounds; ++j) {
    const int i = (j * kAddThreads + threadIdx.x) * 4;
    x[j] = residual[j] = make_float4(0, 0, 0, 0);
    if (i < a.hidden) {
      float4 parts[kSlices];
#pragma unroll
      for (int s = 0; s < kSlices; ++s) parts[s] = *reinterpret_cast<const float4*>(a.x + s * a.slice_stride + row + i);
      residual[j] = *reinterpret_cast<const float4*>(a.residual + row + i);
      x[j] = parts[0];
#pragma unroll
      for (int s = 1; s < kSlices; ++s) x[j].x += parts[s].x, x[j].y += parts[s].y, x[j].z += parts[s].z, x[j].w += parts[s].w;
    }
    squares += (x[j].x * x[j].x + x[j].y * x[j].y) + (x[j].z * x[j].z + x[j].w * x[j].w);
  }
  const float inverse = rsqrtf(block_sum<kAddThreads / 32>(squares, scratch[0]) / static_cast<float>(a.hidden) + a.eps);
  squares = 0.0f;
#pragma unroll
  for (int j = 0; j < kRounds; ++j) {
    const float4 w = widen(weights[j]);
    float4& r = residual[j];
    r.x = (r.x + x[j].x * inverse * w.x) * a.scale, r.y = (r.y + x[j].y * inverse * w.y) * a.scale;
    r.z = (r.z + x[j].z * inverse * w.z) * a.scale, r.w = (r.w + x[j].w * inverse * w.w) * a.scale;
    squares += (r.x * r.x + r.y * r.y) + (r.z * r.z + r.w * r.w);
    const int i = (j * kAddThreads + threadIdx.x) * 4;
    if (i < a.hidden) *reinterpret_cast<float4*>(a.residual + row + i) = r;
  }
  if (!a.next_weight) return;
  const float next_inverse = rsqrtf(block_sum<kAddThreads / 32>(squares, scratch[1]) / static_cast<float>(a.hidden) + a.eps);
#pragma unroll
  for (int j = 0; j < kRounds; ++j) {
    const int i = (j * kAddThreads + threadIdx.x) * 4;
    const float4 w = widen(next_weights[j]), r = residual[j];
    if (i < a.hidden) *reinterpret_cast<uint2*>(a.out + row + i) = make_uint2(pack_bf16(r.x * next_inverse * w.x, r.y * next_inverse * w.y), pack_bf16(r.z * next_inverse * w.z, r.w * next_inverse * w.w));
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

__global__ void sum_slices(const float* x, int slices, int64_t stride, int64_t count, float* out) {
  let_next_kernel_start();
  wait_for_earlier_kernels();
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += int64_t{gridDim.x} * blockDim.x) {
    float total = x[i];
    for (int s = 1; s < slices; ++s) total += x[s * stride + i];
    out[i] = total;
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
namespace {
template <int kSlices>
void run_norm_add(const RmsNormAdd& args, cudaStream_t stream) {
  args.hidden <= 4 * kAddThreads ? launch(norm_add<kSlices, 1>, dim3(args.rows), dim3(kAddThreads), 0, stream, args)
                                 : launch(norm_add<kSlices, 2>, dim3(args.rows), dim3(kAddThreads), 0, stream, args);
}
}  // namespace
void rms_norm_add(const RmsNormAdd& args, cudaStream_t stream) {
  args.slices == 1 ? run_norm_add<1>(args, stream) : args.slices == 2 ? run_norm_add<2>(args, stream) : run_norm_add<4>(args, stream);
}
void gelu_gate(const float* g, const float* up, __nv_bfloat16* out, int64_t count, cudaStream_t stream) {
  launch(gate, dim3(blocks_for(count)), dim3(256), 0, stream, g, up, out, count);
}
void softcap(float* logits, int64_t count, float cap, cudaStream_t stream) {
  launch(cap_logits, dim3(blocks_for(count / 4)), dim3(256), 0, stream, reinterpret_cast<float4*>(logits), count / 4, cap);
}
void gather_rows(const float* x, const int32_t* rows, float* out, int num_rows, int hidden, cudaStream_t stream) {
  launch(gather, dim3(num_rows), dim3(256), 0, stream, x, rows, out, hidden);
}
void add_slices(const float* x, int slices, int64_t slice_stride, int64_t count, float* out, cudaStream_t stream) {
  launch(sum_slices, dim3(blocks_for(count)), dim3(256), 0, stream, x, slices, slice_stride, count, out);
}
void rotary(const int32_t* positions, const float* frequencies, float* cos, float* sin, int rows, int pairs, cudaStream_t stream) {
  launch(rotary_table, dim3(rows), dim3(128), 0, stream, positions, frequencies, cos, sin, pairs);
}
}  // namespace nibble::cuda
