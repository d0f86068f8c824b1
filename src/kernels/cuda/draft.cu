#include "kernels/cuda/draft.h"

#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/logit_key.cuh"

namespace nibble::cuda {
namespace {
// Grid: a CTA for each half of a row, the embedding and the state. Bound by latency: 20 KB a row.
constexpr int kInputThreads = 512;

template <bool kF32>
__global__ void __launch_bounds__(kInputThreads) join_input(const __grid_constant__ DraftInput a) {
  const int64_t row = blockIdx.x;
  const bool is_state = blockIdx.y == 1;
  let_next_kernel_start();
  wait_for_earlier_kernels();
  const int64_t from = is_state ? (a.hidden_rows ? a.hidden_rows[row] : row) : a.ids[row];
  __nv_bfloat16* const to = a.out + (row * 2 + is_state) * a.width;
  for (int i = threadIdx.x * 4; i < a.width; i += kInputThreads * 4) {
    uint2 v;
    if (kF32 && is_state) {
      const float4 x = *reinterpret_cast<const float4*>(static_cast<const float*>(a.hidden) + from * a.width + i);
      v = make_uint2(pack_bf16(x.x, x.y), pack_bf16(x.z, x.w));
    } else if (is_state) {
      v = *reinterpret_cast<const uint2*>(static_cast<const __nv_bfloat16*>(a.hidden) + from * a.width + i);
    } else {
      v = *reinterpret_cast<const uint2*>(a.table + from * a.width + i);
      const float2 low = __bfloat1622float2(reinterpret_cast<const __nv_bfloat162&>(v.x)), high = __bfloat1622float2(reinterpret_cast<const __nv_bfloat162&>(v.y));
      v = make_uint2(pack_bf16(low.x * a.scale, low.y * a.scale), pack_bf16(high.x * a.scale, high.y * a.scale));
    }
    *reinterpret_cast<uint2*>(to + i) = v;
  }
}

// Grid: parts of 4096 logits by rows; the CTA of a row that ends last compares the parts. A maximum does not depend on the order in which they end.
// Bound by: the logits once, out of the second-level cache where the head has just left them.
constexpr int kThreads = 256, kItems = 16, kPart = kThreads * kItems;

__device__ uint64_t block_max(uint64_t value, uint64_t* scratch) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value = max(value, __shfl_xor_sync(0xffffffffu, value, offset));
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
  __syncthreads();
  value = scratch[threadIdx.x % (kThreads / 32)];
#pragma unroll
  for (int offset = kThreads / 64; offset > 0; offset /= 2) value = max(value, __shfl_xor_sync(0xffffffffu, value, offset));
  return value;
}

__global__ void __launch_bounds__(kThreads) best(const float* logits, int vocab, unsigned* num_done, uint64_t* keys, int32_t* ids) {
  __shared__ uint64_t scratch[2][kThreads / 32];
  __shared__ bool is_last;
  const int row = blockIdx.y, first = blockIdx.x * kPart + threadIdx.x;
  let_next_kernel_start();
  wait_for_earlier_kernels();
  float x[kItems];
#pragma unroll
  for (int i = 0; i < kItems; ++i) x[i] = first + i * kThreads < vocab ? logits[int64_t{row} * vocab + first + i * kThreads] : 0.0f;
  uint64_t highest = 0;
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    if (first + i * kThreads < vocab) highest = max(highest, key_of(x[i] + 0.0f, first + i * kThreads));  // + 0: both zeros are one
  }
  highest = block_max(highest, scratch[0]);
  uint64_t* const row_keys = keys + int64_t{row} * gridDim.x;
  if (threadIdx.x == 0) {
    row_keys[blockIdx.x] = highest;
    __threadfence();
    is_last = atomicAdd(&num_done[row], 1u) == gridDim.x - 1;
  }
  __syncthreads();
  if (!is_last) return;
  __threadfence();
  highest = 0;
  for (int p = threadIdx.x; p < static_cast<int>(gridDim.x); p += kThreads) highest = max(highest, __ldcg(row_keys + p));
  highest = block_max(highest, scratch[1]);
  if (threadIdx.x == 0) {
    ids[row] = id_of(highest);
    num_done[row] = 0;
  }
}

int num_parts(int vocab) { return (vocab + kPart - 1) / kPart; }
int64_t counter_bytes(int rows) { return (int64_t{rows} * 4 + 15) / 16 * 16; }
}  // namespace

void draft_input(const DraftInput& args, cudaStream_t stream) {
  launch(args.hidden_is_f32 ? join_input<true> : join_input<false>, dim3(args.rows, 2), dim3(kInputThreads), 0, stream, args);
}

int64_t argmax_scratch_bytes(int max_rows, int vocab) { return counter_bytes(max_rows) + int64_t{max_rows} * num_parts(vocab) * 8; }

void argmax(const float* logits, int rows, int vocab, void* scratch, int max_rows, int32_t* ids, cudaStream_t stream) {
  auto* const num_done = static_cast<unsigned*>(scratch);
  auto* const keys = reinterpret_cast<uint64_t*>(static_cast<char*>(scratch) + counter_bytes(max_rows));
  launch(best, dim3(num_parts(vocab), rows), dim3(kThreads), 0, stream, logits, vocab, num_done, keys, ids);
}
}  // namespace nibble::cuda
