// 1 to 8 rows. What counts is that the weights stream without a gap: CTAs stay for the whole launch, x [8 rows] lies in shared memory, and what x leaves of it is
// a ring for each warp, kept full by bulk copies, the first of them on their way before the kernel ahead has ended. Those take turns: a queue of all that the rings
// hold would delay the few reads of that kernel by the microseconds that the early start is to save.
//
// Groups of eight warps; a group takes a pair of tiles of 16 outputs at a time, warp s its segment s of both (with a gate, of gate's pair, then of up's). The
// eight sums are added in order through shared memory. NVFP4, whose unpacking costs the most, needs four groups a CTA to keep the schedulers busy.
#include <algorithm>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/unpack.cuh"

namespace nibble::cuda {
namespace {
constexpr int kGroupThreads = kSegments * 32;
constexpr int kTileSums = 128, kGroupSums = kSegments * 2 * kTileSums;  // of a tile and eight rows; of a pair's segments
constexpr int kMostStages = 4, kBarrierBytes = 1024;
// Groups whose copies are under way at a time until the kernel ahead has ended: 32 or 37 KiB a multiprocessor are what the memory's latency holds.
constexpr int early_turns(WeightFormat f) { return f == WeightFormat::nvfp4 ? 2 : 1; }

struct Params {
  const __nv_bfloat16* x;
  __nv_bfloat16* gated;
  LinearPart parts[3];
  int rows, k, units, slices, pairs;  // pairs of tiles: of all parts (gated: of one)
  int stages;                         // of a warp's ring
};

// Of pair `pair` of all parts: the part, and the pair's number in it.
__device__ __forceinline__ const LinearPart& find_part(const Params& p, int& pair) {
  int i = 0;
  while (pair >= p.parts[i].tiles / 2) pair -= p.parts[i++].tiles / 2;
  return p.parts[i];
}

// What a warp fetches: its segment of one pair after another, with a gate gate's and up's in turn, a unit a stage.
template <WeightFormat kFormat, bool kGated>
struct Stream {
  const Params& p;
  int slice, pair, stride, segment_first, segment_units;
  const uint8_t* at;  // null: no more
  int left, half = 0;

  __device__ Stream(const Params& params, int slice_, int first_pair, int stride_, int first, int last) : p(params), slice(slice_), pair(first_pair), stride(stride_), segment_first(first), segment_units(last - first) {
    at = run_at();
    left = segment_units;
  }
  __device__ void fetch(uint8_t* stage, uint64_t* barrier) {
    if (at == nullptr) return;
    if (elect_one()) {
      barrier_expect(barrier, pair_unit_bytes(kFormat));
      bulk_load(stage, at, pair_unit_bytes(kFormat), barrier);
    }
    at += pair_unit_bytes(kFormat);
    if (--left > 0) return;
    if (kGated && half == 0) {
      half = 1;
    } else {
      half = 0;
      pair += stride;
    }
    at = run_at();
    left = segment_units;
  }

 private:
  __device__ const uint8_t* run_at() const {
    if (pair >= p.pairs || segment_units == 0) return nullptr;
    int number = pair;
    const LinearPart& part = kGated ? p.parts[half] : find_part(p, number);
    return part.blocks + pair_offset(kFormat, slice, part.tiles, p.units, number) + int64_t{segment_first} * pair_unit_bytes(kFormat);
  }
};

template <WeightFormat kFormat, bool kGated, int kGroups>
__global__ void __launch_bounds__(kGroups * kGroupThreads, 1) narrow(const __grid_constant__ Params p) {
  extern __shared__ __align__(128) uint8_t shared[];
  constexpr int kWarps = kGroups * kSegments, kThreads = kWarps * 32, kSumBytes = kGroups * kGroupSums * 4;
  constexpr int kHalves = kGated ? 2 : 1, kUnitBytes = pair_unit_bytes(kFormat), kSteps = unit_steps(kFormat);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = warp / kSegments, segment = warp % kSegments;
  const int slice = blockIdx.x % p.slices, slice_ctas = (gridDim.x - slice + p.slices - 1) / p.slices;
  const int first_pair = group * slice_ctas + blockIdx.x / p.slices, pair_stride = slice_ctas * kGroups;  // neighbouring pairs on different multiprocessors
  const int segment_first = segment_begin(p.units, segment), segment_last = segment_begin(p.units, segment + 1);

  uint64_t* const barriers = reinterpret_cast<uint64_t*>(shared) + warp * kMostStages;
  float* const sums = reinterpret_cast<float*>(shared + kBarrierBytes) + group * kGroupSums;
  uint8_t* const ring = shared + kBarrierBytes + kSumBytes + warp * (p.stages * kUnitBytes);
  auto* const x_shared = reinterpret_cast<__nv_bfloat16*>(shared + kBarrierBytes + kSumBytes + kWarps * p.stages * kUnitBytes);
  const int slice_inputs = p.units * unit_inputs(kFormat), x_stride = slice_inputs + 8;

  if (lane == 0) {
    for (int s = 0; s < p.stages; ++s) barrier_init(&barriers[s], 1);
    barrier_init_fence();
  }
  __syncthreads();
  Stream<kFormat, kGated> stream(p, slice, first_pair, pair_stride, segment_first, segment_last);
  let_next_kernel_start();
  for (int s = 0; s < p.stages; ++s) {
    // The turn before: of another group, as far as it has that many units.
    const int turn = s * kGroups + group - early_turns(kFormat), of_group = turn % kGroups, of_stage = turn / kGroups;
    if (turn >= 0 && of_stage < (segment_last - segment_first) * kHalves && of_group * slice_ctas + blockIdx.x / p.slices < p.pairs) {
      barrier_wait(reinterpret_cast<uint64_t*>(shared) + (of_group * kSegments + segment) * kMostStages + of_stage, 0);
    }
    stream.fetch(ring + s * kUnitBytes, &barriers[s]);
  }
  wait_for_earlier_kernels();
  for (int row = 0, chunk = threadIdx.x, chunks = slice_inputs / 8;; chunk += kThreads) {
    while (chunk >= chunks && row < p.rows) chunk -= chunks, ++row;
    if (row >= p.rows) break;
    const int input = slice * slice_inputs + chunk * 8;  // k is a multiple of 8
    uint4 v = input < p.k ? *reinterpret_cast<const uint4*>(p.x + int64_t{row} * p.k + input) : make_uint4(0, 0, 0, 0);
    if constexpr (kFormat == WeightFormat::fp8_block) {
      v.x = multiply_bf16x2(v.x, kFp8InputScale), v.y = multiply_bf16x2(v.y, kFp8InputScale), v.z = multiply_bf16x2(v.z, kFp8InputScale), v.w = multiply_bf16x2(v.w, kFp8InputScale);
    }
    *reinterpret_cast<uint4*>(x_shared + row * x_stride + chunk * 8) = v;
  }
  __syncthreads();

  // Lane 8 i + r of a load_matrices reads row r, inputs 8 i ..; rows beyond the last repeat it, and their sums are not stored.
  const __nv_bfloat16* const x_lane = x_shared + min(lane % 8, p.rows - 1) * x_stride + lane / 8 * 8;
  // The value of a pair that this thread adds up and writes.
  const int place = static_cast<int>(threadIdx.x % kGroupThreads), tile = place / kTileSums, i = place % kTileSums;
  const int row = (i / 4) % 4 * 2 + i % 2, tile_column = tile * kTileOutputs + i / 16 + (i % 4 / 2) * 8;
  int stage = 0, parity = 0;
  for (int index = first_pair; index < p.pairs; index += pair_stride) {
    int pair = index;
    const LinearPart& own = kGated ? p.parts[0] : find_part(p, pair);
    float gate = 0.0f;
#pragma unroll 1
    for (int half = 0; half < kHalves; ++half) {
      float d[2][4] = {};
#pragma unroll 1
      for (int unit = segment_first; unit < segment_last; ++unit) {
        const __nv_bfloat16* const x = x_lane + unit * unit_inputs(kFormat);
        float scale = 1.0f, unit_sum[2][4] = {};
        if constexpr (kFormat == WeightFormat::fp8_block) {
          // Both tiles lie within one row of scales.
          scale = __ldg((half ? p.parts[1].scales : own.scales) + int64_t{pair / (64 / kTileOutputs)} * (p.slices * p.units) + slice * p.units + unit);
        }
        uint8_t* const block = ring + stage * kUnitBytes;
        barrier_wait(&barriers[stage], parity);
        Piece<kFormat> pieces[kSteps];
        if constexpr (kGroups == 2) {
#pragma unroll
          for (int s = 0; s < kSteps; ++s) pieces[s].load(block, s, lane);
        }
        uint32_t b[4];  // 32 inputs
#pragma unroll
        for (int s = 0; s < kSteps; ++s) {
          if constexpr (kGroups > 2) pieces[s].load(block, s, lane);
          constexpr int kK16 = Piece<kFormat>::kK16, kRun = kK16 == 1 ? 1 : 2;  // k16 unpacked at a time
#pragma unroll
          for (int k = 0; k < kK16; k += kRun) {
            const int input = (s * kK16 + k) * 16;
            if (input % 32 == 0) load_matrices(b, x + input);
            uint32_t a[2][2][4];
            pieces[s].unpack(0, k, a[0]);
            pieces[s].unpack(1, k, a[1]);
#pragma unroll
            for (int r = 0; r < kRun; ++r) {
              const int in_b = (input % 32 / 16 + r) * 2;
#pragma unroll
              for (int t = 0; t < 2; ++t) mma_bf16(kFormat == WeightFormat::fp8_block ? unit_sum[t] : d[t], a[t][r], b[in_b], b[in_b + 1]);
            }
          }
        }
        __syncwarp();
        stream.fetch(block, &barriers[stage]);
        if (++stage == p.stages) stage = 0, parity ^= 1;
        if constexpr (kFormat == WeightFormat::fp8_block) {
#pragma unroll
          for (int t = 0; t < 2; ++t) {
#pragma unroll
            for (int i = 0; i < 4; ++i) d[t][i] = fmaf(scale, unit_sum[t][i], d[t][i]);
          }
        }
      }
#pragma unroll
      for (int t = 0; t < 2; ++t) *reinterpret_cast<float4*>(sums + (segment * 2 + t) * kTileSums + lane * 4) = make_float4(d[t][0], d[t][1], d[t][2], d[t][3]);
      named_barrier<kGroupThreads>(1 + group);
      float total = sums[tile * kTileSums + i];
#pragma unroll
      for (int w = 1; w < kSegments; ++w) total += sums[(w * 2 + tile) * kTileSums + i];
      named_barrier<kGroupThreads>(1 + group);  // all have read before the next sums come
      const int column = pair * 2 * kTileOutputs + tile_column;
      if constexpr (kGated) {
        if (half == 0) {
          gate = gelu_tanh(total * own.factor);
        } else if (row < p.rows && column < own.n) {
          p.gated[int64_t{row} * own.n + column] = __float2bfloat16(gate * (total * p.parts[1].factor));
        }
      } else if (row < p.rows && column < own.n) {
        own.out[slice * own.slice_stride + int64_t{row} * own.n + column] = total * own.factor;
      }
    }
  }
}

template <WeightFormat kFormat, bool kGated, int kGroups = kFormat == WeightFormat::nvfp4 ? 4 : 2>
void run(Params p, cudaStream_t stream) {
  constexpr size_t kMostShared = 232448 - 1024;
  static const int ctas = [] {
    int device = 0, count = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
    cudaFuncSetAttribute(narrow<kFormat, kGated, kGroups>, cudaFuncAttributeMaxDynamicSharedMemorySize, kMostShared);
    return count;
  }();
  const size_t fixed = kBarrierBytes + kGroups * kGroupSums * 4 + size_t(p.rows) * (p.units * unit_inputs(kFormat) + 8) * 2, stage_bytes = kGroups * kSegments * pair_unit_bytes(kFormat);
  p.stages = static_cast<int>(std::min<size_t>(kMostStages, (kMostShared - fixed) / stage_bytes));
  if constexpr (kGroups > 2) {
    if (p.stages < 2) return run<kFormat, kGated, 2>(p, stream);
  }
  launch(narrow<kFormat, kGated, kGroups>, dim3(ctas), dim3(kGroups * kGroupThreads), fixed + p.stages * stage_bytes, stream, p);
}
}  // namespace

void linear_narrow(const LinearCall& call, cudaStream_t stream) {
  const PackedWeight& first = call.targets[0].weight;
  Params p{.x = static_cast<const __nv_bfloat16*>(call.x), .gated = static_cast<__nv_bfloat16*>(call.gated), .parts = {}, .rows = call.rows,
           .k = first.k, .units = first.units, .slices = first.slices, .pairs = 0, .stages = 0};
  for (int i = 0; i < call.num_targets; ++i) {
    p.parts[i] = linear_part(call.targets[i]);
    p.pairs += p.parts[i].tiles / 2;
  }
  if (call.gated) p.pairs = first.tiles / 2;
  switch (first.format) {
    case WeightFormat::bf16: call.gated ? run<WeightFormat::bf16, true>(p, stream) : run<WeightFormat::bf16, false>(p, stream); break;
    case WeightFormat::fp8_block: call.gated ? run<WeightFormat::fp8_block, true>(p, stream) : run<WeightFormat::fp8_block, false>(p, stream); break;
    case WeightFormat::nvfp4: call.gated ? run<WeightFormat::nvfp4, true>(p, stream) : run<WeightFormat::nvfp4, false>(p, stream); break;
  }
}
}  // namespace nibble::cuda
