#include "kernels/cuda/candidates.h"

#include <cub/block/block_radix_sort.cuh>
#include <cub/block/block_reduce.cuh>

#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/logit_key.cuh"

namespace nibble::cuda {
namespace {
// A row in parts of 4096 logits, a block each; then a block a row over what the parts found.
constexpr int kThreads = 256, kItems = 16, kPart = kThreads * kItems;

__global__ void apply_edits(float* logits, int vocab, const LogitEdit* edits, int count) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const LogitEdit e = edits[i];
  float& x = logits[int64_t{e.row} * vocab + e.id];
  float v = x - e.subtract;
  v = v < 0.0f ? v * e.repetition : v / e.repetition;
  x = v + e.bias;
}

// Grid: a thread per logit of each masked row; the 32 of a warp share one word. Bound by the writes of what is forbidden.
__global__ void apply_masks(float* logits, int vocab, const int32_t* masked, const uint32_t* masks) {
  const int id = blockIdx.x * blockDim.x + threadIdx.x;
  if (id >= vocab) return;
  const uint32_t word = masks[int64_t{blockIdx.y} * mask_words(vocab) + id / 32];
  if (!(word >> (id % 32) & 1)) logits[int64_t{masked[blockIdx.y]} * vocab + id] = -INFINITY;
}

struct PartSummary {
  float highest, sum;
};

template <bool kOne>
__global__ void __launch_bounds__(kThreads) parts(const float* logits, int vocab, const float* temperatures, int count, uint64_t* keys, PartSummary* summaries) {
  using Sort = cub::BlockRadixSort<uint64_t, kThreads, kItems>;
  using Best = cub::BlockReduce<uint64_t, kThreads>;
  using Sum = cub::BlockReduce<float, kThreads>;
  __shared__ union {
    typename Sort::TempStorage sort;
    typename Best::TempStorage best;
    typename Sum::TempStorage sum;
  } storage;
  __shared__ uint64_t best;
  const int row = blockIdx.y, part = blockIdx.x, first = part * kPart;
  const float temperature = temperatures[row];
  uint64_t k[kItems], highest = 0;
  float x[kItems];
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const int id = first + i * kThreads + threadIdx.x;
    x[i] = id < vocab ? logits[int64_t{row} * vocab + id] / temperature : -INFINITY;
    k[i] = id < vocab ? key_of(x[i], id) : 0;
    highest = max(highest, k[i]);
  }
  highest = Best(storage.best).Reduce(highest, [](uint64_t a, uint64_t b) { return a > b ? a : b; });
  if (threadIdx.x == 0) best = highest;
  __syncthreads();
  const float top = candidate_of(best).x;
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kItems; ++i) sum += top == -INFINITY ? 0.0f : __expf(x[i] - top);
  sum = Sum(storage.sum).Sum(sum);
  const int64_t place = int64_t{row} * gridDim.x + part;
  if (threadIdx.x == 0) summaries[place] = {top, sum};
  if constexpr (kOne) {
    if (threadIdx.x == 0) keys[place] = best;
  } else {
    __syncthreads();
    Sort(storage.sort).SortDescending(k);
    // Blocked order: thread t holds ranks t * kItems ...
    for (int i = 0; i < kItems; ++i) {
      const int rank = static_cast<int>(threadIdx.x) * kItems + i;
      if (rank < count) keys[place * count + rank] = k[i];
    }
  }
}

// By one warp, in an order that is always the same.
__device__ void summarize(const PartSummary* parts, int num_parts, RowSummary* out) {
  if (threadIdx.x >= 32) return;
  float highest = -INFINITY, sum = 0.0f;
  bool nan = false;
  for (int p = threadIdx.x; p < num_parts; p += 32) {
    nan |= isnan(parts[p].highest);
    highest = fmaxf(highest, parts[p].highest);
  }
  for (int offset = 16; offset > 0; offset /= 2) highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, offset));
  nan = __any_sync(0xffffffffu, nan);
  for (int p = threadIdx.x; p < num_parts; p += 32) {
    if (parts[p].highest != -INFINITY) sum += parts[p].sum * __expf(parts[p].highest - highest);
  }
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
  if (threadIdx.x == 0) *out = {nan ? NAN : highest, sum};
}

__global__ void __launch_bounds__(kThreads) best_of_parts(const uint64_t* keys, const PartSummary* summaries, int num_parts, Candidate* out, RowSummary* row_summaries) {
  using Best = cub::BlockReduce<uint64_t, kThreads>;
  __shared__ typename Best::TempStorage storage;
  const int row = blockIdx.x;
  uint64_t best = 0;
  for (int p = threadIdx.x; p < num_parts; p += kThreads) best = max(best, keys[int64_t{row} * num_parts + p]);
  best = Best(storage).Reduce(best, [](uint64_t a, uint64_t b) { return a > b ? a : b; });
  if (threadIdx.x == 0) out[int64_t{row} * kMaxCandidates] = candidate_of(best);
  summarize(summaries + int64_t{row} * num_parts, num_parts, row_summaries + row);
}

// The best `count` of `num_parts * count` keys.
__global__ void __launch_bounds__(kThreads) rows(const uint64_t* keys, const PartSummary* summaries, int num_parts, int count, Candidate* out, RowSummary* row_summaries) {
  using Sort = cub::BlockRadixSort<uint64_t, kThreads, kItems>;
  __shared__ typename Sort::TempStorage storage;
  const int row = blockIdx.x;
  uint64_t carried[kItems];
  for (int i = 0; i < kItems; ++i) carried[i] = 0;
  const int total = num_parts * count;
  const uint64_t* from = keys + int64_t{row} * total;
  // In rounds when there are more keys than the block sorts at once: the best of the rounds before stay in the first threads.
  const int kept = count, fresh = kPart - kept;
  for (int first = 0; first < total; first += fresh) {
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const int rank = static_cast<int>(threadIdx.x) * kItems + i;
      if (rank < kept && first > 0) continue;
      const int at = first + rank - kept;
      carried[i] = rank < kept ? 0 : at < total ? from[at] : 0;
    }
    Sort(storage).SortDescending(carried);
    __syncthreads();
  }
  for (int i = 0; i < kItems; ++i) {
    const int rank = static_cast<int>(threadIdx.x) * kItems + i;
    if (rank < count) out[int64_t{row} * kMaxCandidates + rank] = candidate_of(carried[i]);
  }
  summarize(summaries + int64_t{row} * num_parts, num_parts, row_summaries + row);
}

int num_parts(int vocab) { return (vocab + kPart - 1) / kPart; }
}  // namespace

int64_t candidate_scratch_bytes(int num_rows, int vocab) { return int64_t{num_rows} * num_parts(vocab) * (kMaxCandidates * 8 + static_cast<int64_t>(sizeof(PartSummary))); }

void find_candidates(float* logits, int num_rows, int vocab, const float* temperatures, const LogitEdit* edits, int num_edits, const int32_t* masked, const uint32_t* masks, int num_masks, int count,
                     void* scratch, Candidate* out, RowSummary* summaries, cudaStream_t stream) {
  if (num_edits > 0) apply_edits<<<(num_edits + 255) / 256, 256, 0, stream>>>(logits, vocab, edits, num_edits);
  if (num_masks > 0) apply_masks<<<dim3((vocab + 255) / 256, num_masks), 256, 0, stream>>>(logits, vocab, masked, masks);
  const int n = num_parts(vocab);
  auto* const keys = static_cast<uint64_t*>(scratch);
  auto* const part_summaries = reinterpret_cast<PartSummary*>(keys + int64_t{num_rows} * n * kMaxCandidates);
  if (count == 1) {
    parts<true><<<dim3(n, num_rows), kThreads, 0, stream>>>(logits, vocab, temperatures, count, keys, part_summaries);
    best_of_parts<<<num_rows, kThreads, 0, stream>>>(keys, part_summaries, n, out, summaries);
  } else {
    parts<false><<<dim3(n, num_rows), kThreads, 0, stream>>>(logits, vocab, temperatures, count, keys, part_summaries);
    rows<<<num_rows, kThreads, 0, stream>>>(keys, part_summaries, n, count, out, summaries);
  }
}
}  // namespace nibble::cuda
