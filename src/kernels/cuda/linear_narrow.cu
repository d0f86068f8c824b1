// 1 to 8 rows. What counts is that the weights stream without a gap: CTAs stay for the whole launch, x [8 rows] lies in shared memory, and every warp
// keeps kStages bulk copies of its own in flight, the first of them before the kernel ahead has ended.
//
// Two groups of eight warps a CTA; a group takes a pair of tiles of 16 outputs at a time, warp s its segment s of both (with a gate, of gate's pair and up's). The eight sums are added in order
// through shared memory.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/unpack.cuh"

namespace nibble::cuda {
namespace {
constexpr int kGroups = 2, kGroupThreads = kSegments * 32, kThreads = kGroups * kGroupThreads;
constexpr int stage_units(WeightFormat f) { return f == WeightFormat::nvfp4 ? 2 : 1; }
constexpr int num_stages(WeightFormat f) { return f == WeightFormat::nvfp4 ? 3 : 2; }  // of 2.3 and 4 KB
constexpr int kSumBytes = kGroups * 2 * kSegments * 2 * 512;

struct Part {
  const uint8_t* blocks;
  const float* scales;
  float* out;
  int64_t slice_stride;
  float factor;
  int n, tiles;
};
struct Params {
  const __nv_bfloat16* x;
  __nv_bfloat16* gated;
  Part parts[3];
  int rows, k, units, slices, pairs;  // pairs of tiles: of all parts (gated: of one)
};

// Of pair `pair` of all parts: the part, and the pair's number in it.
__device__ __forceinline__ const Part& find_part(const Params& p, int& pair) {
  int i = 0;
  while (pair >= p.parts[i].tiles / 2) pair -= p.parts[i++].tiles / 2;
  return p.parts[i];
}

template <WeightFormat kFormat, bool kGated>
__global__ void __launch_bounds__(kThreads, 1) narrow(const __grid_constant__ Params p) {
  extern __shared__ __align__(128) uint8_t shared[];
  constexpr int kStages = num_stages(kFormat), kUnits = stage_units(kFormat), kStageBytes = kUnits * 2 * unit_bytes(kFormat), kHalves = kGated ? 2 : 1;
  constexpr int kBuffers = kGated ? 1 : 2;  // of sums: the kernel that adds a pair may run ahead into the next
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = warp / kSegments, segment = warp % kSegments;
  const int slice = blockIdx.x % p.slices, slice_ctas = (gridDim.x - slice + p.slices - 1) / p.slices;
  const int first_pair = (blockIdx.x / p.slices) * kGroups + group, pair_stride = slice_ctas * kGroups;
  const int segment_first = segment_begin(p.units, segment), segment_last = segment_begin(p.units, segment + 1);

  auto* const barriers = reinterpret_cast<uint64_t*>(shared) + warp * kStages;
  float* const sums = reinterpret_cast<float*>(shared + 1024) + group * (2 * kSegments * 256);
  uint8_t* const ring = shared + 1024 + kSumBytes + warp * (kStages * kStageBytes);
  auto* const x_shared = reinterpret_cast<__nv_bfloat16*>(shared + 1024 + kSumBytes + kGroups * kSegments * kStages * kStageBytes);
  const int slice_inputs = p.units * unit_inputs(kFormat), x_stride = slice_inputs + 8;

  if (lane == 0) {
    for (int s = 0; s < kStages; ++s) barrier_init(&barriers[s], 1);
    barrier_init_fence();
  }
  __syncwarp();

  // What to fetch next, kept by lane 0: with a gate, gate's units and up's take turns.
  int fetch_pair = segment_first < segment_last ? first_pair : p.pairs, fetch_unit = segment_first, fetch_half = 0;
  const uint8_t* from[kHalves] = {};
  const auto aim = [&] {
    if (fetch_pair >= p.pairs) return;
#pragma unroll
    for (int h = 0; h < kHalves; ++h) {
      int pair = fetch_pair;
      const Part& part = kGated ? p.parts[h] : find_part(p, pair);
      from[h] = part.blocks + pair_offset(kFormat, slice, part.tiles, p.units, pair) + segment_first * 2 * unit_bytes(kFormat);
    }
  };
  const auto issue = [&](int stage) {
    if (fetch_pair >= p.pairs) return;
    const uint32_t bytes = static_cast<uint32_t>(min(kUnits, segment_last - fetch_unit) * 2 * unit_bytes(kFormat));
    barrier_expect(&barriers[stage], bytes);
    bulk_load(ring + stage * kStageBytes, kGated && fetch_half ? from[kHalves - 1] : from[0], bytes, &barriers[stage]);
    if (kGated && fetch_half == 0) {
      fetch_half = 1;
      return;
    }
    fetch_half = 0;
#pragma unroll
    for (int h = 0; h < kHalves; ++h) from[h] += kStageBytes;
    fetch_unit += kUnits;
    if (fetch_unit >= segment_last) {
      fetch_unit = segment_first;
      fetch_pair += pair_stride;
      aim();
    }
  };
  if (lane == 0) {
    aim();
#pragma unroll
    for (int s = 0; s < kStages; ++s) issue(s);
  }
  let_next_kernel_start();
  wait_for_earlier_kernels();
  for (int i = threadIdx.x; i < p.rows * (slice_inputs / 8); i += kThreads) {
    const int row = i / (slice_inputs / 8), col = i % (slice_inputs / 8) * 8, input = slice * slice_inputs + col;
    const bool inside = input < p.k;  // k is a multiple of 8
    const uint4 v = inside ? *reinterpret_cast<const uint4*>(p.x + int64_t{row} * p.k + input) : make_uint4(0, 0, 0, 0);
    *reinterpret_cast<uint4*>(x_shared + row * x_stride + col) = v;
  }
  __syncthreads();

  // Lane 8 i + r of a load_matrices reads row r, inputs 8 i ..; rows beyond the last repeat it, and their sums are not stored.
  const __nv_bfloat16* const x_lane = x_shared + min(lane % 8, p.rows - 1) * x_stride + lane / 8 * 8;
  int stage = 0, parity = 0, buffer = 0;
  for (int index = first_pair; index < p.pairs; index += pair_stride, buffer = (buffer + 1) % kBuffers) {
    float* const mine = sums + buffer * (kSegments * 256);
    int pair = index;
    const Part& own = kGated ? p.parts[0] : find_part(p, pair);
    float d[kHalves][2][4] = {};
    for (int unit = segment_first; unit < segment_last; unit += kUnits) {
#pragma unroll
      for (int half = 0; half < kHalves; ++half) {
        barrier_wait(&barriers[stage], parity);
        const uint8_t* const blocks = ring + stage * kStageBytes;
        const auto multiply = [&](int u) {
          float unit_sum[2][4] = {};
#pragma unroll
          for (int part = 0; part < unit_inputs(kFormat) / 64; ++part) {
            uint32_t a[2][4][4], b[2][4];
            const __nv_bfloat16* x = x_lane + (unit + u) * unit_inputs(kFormat) + part * 64;
            load_matrices(b[0], x);
            load_matrices(b[1], x + 32);
            load_fragments<kFormat>(blocks + u * 2 * unit_bytes(kFormat), part, lane, a[0]);
            load_fragments<kFormat>(blocks + (u * 2 + 1) * unit_bytes(kFormat), part, lane, a[1]);
#pragma unroll
            for (int k16 = 0; k16 < 4; ++k16) {
#pragma unroll
              for (int t = 0; t < 2; ++t) mma_bf16(kFormat == WeightFormat::fp8_block ? unit_sum[t] : d[half][t], a[t][k16], b[k16 / 2][k16 % 2 * 2], b[k16 / 2][k16 % 2 * 2 + 1]);
            }
          }
          if constexpr (kFormat == WeightFormat::fp8_block) {
            // Both tiles lie within one row of scales.
            const float scale = __ldg((half ? p.parts[1].scales : own.scales) + int64_t{pair / (64 / kTileOutputs)} * (p.slices * p.units) + slice * p.units + unit + u);
#pragma unroll
            for (int t = 0; t < 2; ++t) {
#pragma unroll
              for (int i = 0; i < 4; ++i) d[half][t][i] = fmaf(scale, unit_sum[t][i], d[half][t][i]);
            }
          }
        };
        if (unit + kUnits <= segment_last) {
#pragma unroll
          for (int u = 0; u < kUnits; ++u) multiply(u);
        } else {
          for (int u = 0; u < segment_last - unit; ++u) multiply(u);
        }
        __syncwarp();
        if (lane == 0) issue(stage);
        if (++stage == kStages) stage = 0, parity ^= 1;
      }
    }
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
#pragma unroll
      for (int t = 0; t < 2; ++t) {
        *reinterpret_cast<float4*>(mine + ((half * 2 + t) * kSegments + segment) * 128 + lane * 4) = make_float4(d[half][t][0], d[half][t][1], d[half][t][2], d[half][t][3]);
      }
    }
    named_barrier<kGroupThreads>(1 + group);
    const int i = static_cast<int>(threadIdx.x % 128), tile = static_cast<int>(threadIdx.x % kGroupThreads) / 128;
    const auto add = [&](int half) {
      const float* s = mine + (half * 2 + tile) * (kSegments * 128) + i;
      float total = s[0];
#pragma unroll
      for (int w = 1; w < kSegments; ++w) total += s[w * 128];
      return total;
    };
    const int row = (i / 4) % 4 * 2 + i % 2, column = (pair * 2 + tile) * kTileOutputs + i / 16 + (i % 4 / 2) * 8;
    if (row < p.rows && column < own.n) {
      if constexpr (kGated) {
        p.gated[int64_t{row} * own.n + column] = __float2bfloat16(gelu_tanh(add(0) * own.factor) * (add(1) * p.parts[1].factor));
      } else {
        own.out[slice * own.slice_stride + int64_t{row} * own.n + column] = add(0) * own.factor;
      }
    }
    if constexpr (kBuffers == 1) named_barrier<kGroupThreads>(1 + group);
  }
}

template <WeightFormat kFormat>
size_t shared_bytes(int slice_inputs, int rows) {
  return 1024 + kSumBytes + kGroups * kSegments * num_stages(kFormat) * 2 * stage_units(kFormat) * unit_bytes(kFormat) + size_t(rows) * (slice_inputs + 8) * 2;
}

template <WeightFormat kFormat, bool kGated>
void run(const Params& p, cudaStream_t stream) {
  static const int ctas = [] {
    int device = 0, count = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
    cudaFuncSetAttribute(narrow<kFormat, kGated>, cudaFuncAttributeMaxDynamicSharedMemorySize, 232448 - 1024);
    return count;
  }();
  launch(narrow<kFormat, kGated>, dim3(ctas), dim3(kThreads), shared_bytes<kFormat>(p.units * unit_inputs(kFormat), p.rows), stream, p);
}
}  // namespace

void linear_narrow(const LinearCall& call, cudaStream_t stream) {
  const PackedWeight& first = call.targets[0].weight;
  Params p{.x = static_cast<const __nv_bfloat16*>(call.x), .gated = static_cast<__nv_bfloat16*>(call.gated), .parts = {}, .rows = call.rows,
           .k = first.k, .units = first.units, .slices = first.slices, .pairs = 0};
  for (int i = 0; i < call.num_targets; ++i) {
    const Target& t = call.targets[i];
    p.parts[i] = {t.weight.blocks, t.weight.scales, t.out, t.slice_stride, t.weight.factor, t.weight.n, t.weight.tiles};
    p.pairs += t.weight.tiles / 2;
  }
  if (call.gated) p.pairs = first.tiles / 2;
  switch (first.format) {
    case WeightFormat::bf16: call.gated ? run<WeightFormat::bf16, true>(p, stream) : run<WeightFormat::bf16, false>(p, stream); break;
    case WeightFormat::fp8_block: call.gated ? run<WeightFormat::fp8_block, true>(p, stream) : run<WeightFormat::fp8_block, false>(p, stream); break;
    case WeightFormat::nvfp4: call.gated ? run<WeightFormat::nvfp4, true>(p, stream) : run<WeightFormat::nvfp4, false>(p, stream); break;
  }
}
}  // namespace nibble::cuda
