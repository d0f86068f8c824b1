// 1 to 8 rows. What counts is that the weights stream without a gap: CTAs stay for the whole launch, x [8 rows] lies in shared memory, and every warp
// keeps kStages bulk copies of its own in flight, the first of them before the kernel ahead has ended.
//
// Two groups of eight warps a CTA; a group takes a tile of 16 outputs at a time, warp s its segment s. The eight sums are added in order through shared memory.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/unpack.cuh"

namespace nibble::cuda {
namespace {
constexpr int kGroups = 2, kGroupThreads = kSegments * 32, kThreads = kGroups * kGroupThreads;
constexpr int stage_units(WeightFormat f) { return f == WeightFormat::nvfp4 ? 4 : 1; }
constexpr int stage_bytes(WeightFormat f) { return stage_units(f) * unit_bytes(f); }
constexpr int num_stages(WeightFormat f) { return f == WeightFormat::nvfp4 ? 3 : 4; }

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
  int num_parts, rows, k, units, slices, tiles;  // tiles: of all parts (gated: of one)
};

// Walks the stages of one warp: tiles of its group, in each the units of its segment (gated: of both weights, one after the other).
template <WeightFormat kFormat, bool kGated>
struct Cursor {
  int tile, stride, half = 0, unit, begin, end;
  __device__ Cursor(int first_tile, int tile_stride, int segment_first, int segment_last)
      : tile(first_tile), stride(tile_stride), unit(segment_first), begin(segment_first), end(segment_last) {}
  __device__ int count() const { return min(stage_units(kFormat), end - unit); }
  __device__ void next() {
    unit += stage_units(kFormat);
    if (unit < end) return;
    unit = begin;
    if (kGated && half == 0) {
      half = 1;
    } else {
      half = 0;
      tile += stride;
    }
  }
};

template <bool kGated>
__device__ __forceinline__ const Part& find_part(const Params& p, int half, int& tile) {
  if (kGated) return p.parts[half];
  int i = 0;
  while (tile >= p.parts[i].tiles) tile -= p.parts[i++].tiles;
  return p.parts[i];
}

template <WeightFormat kFormat, bool kGated>
__global__ void __launch_bounds__(kThreads, 1) narrow(const __grid_constant__ Params p) {
  extern __shared__ __align__(128) uint8_t shared[];
  constexpr int kStages = num_stages(kFormat);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = warp / kSegments, segment = warp % kSegments;
  const int slice = blockIdx.x % p.slices, slice_ctas = (gridDim.x - slice + p.slices - 1) / p.slices;
  const int first_tile = (blockIdx.x / p.slices) * kGroups + group, tile_stride = slice_ctas * kGroups;
  const int segment_first = segment_begin(p.units, segment), segment_last = segment_begin(p.units, segment + 1);

  auto* const barriers = reinterpret_cast<uint64_t*>(shared) + warp * kStages;
  float* const sums = reinterpret_cast<float*>(shared + 1024) + group * (2 * kSegments * (kGated ? 2 : 1) * 128);
  uint8_t* const ring = shared + 1024 + kGroups * 2 * kSegments * (kGated ? 2 : 1) * 512 + warp * (kStages * stage_bytes(kFormat));
  auto* const x_shared = reinterpret_cast<__nv_bfloat16*>(shared + 1024 + kGroups * 2 * kSegments * (kGated ? 2 : 1) * 512 + kGroups * kSegments * kStages * stage_bytes(kFormat));
  const int slice_inputs = p.units * unit_inputs(kFormat), x_stride = slice_inputs + 8;

  if (lane == 0) {
    for (int s = 0; s < kStages; ++s) barrier_init(&barriers[s], 1);
    barrier_init_fence();
  }
  __syncwarp();
  const bool has_units = segment_first < segment_last;
  Cursor<kFormat, kGated> fetch(first_tile, tile_stride, segment_first, segment_last), use = fetch;
  const auto issue = [&](int stage) {
    if (!has_units || fetch.tile >= p.tiles) return;
    int tile = fetch.tile;
    const Part& part = find_part<kGated>(p, fetch.half, tile);
    const uint8_t* from = part.blocks + ((int64_t{slice} * part.tiles + tile) * p.units + fetch.unit) * unit_bytes(kFormat);
    const uint32_t bytes = static_cast<uint32_t>(fetch.count() * unit_bytes(kFormat));
    if (lane == 0) {
      barrier_expect(&barriers[stage], bytes);
      bulk_load(ring + stage * stage_bytes(kFormat), from, bytes, &barriers[stage]);
    }
    fetch.next();
  };
#pragma unroll
  for (int s = 0; s < kStages; ++s) issue(s);

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
  for (int tile = first_tile; tile < p.tiles; tile += tile_stride, buffer ^= 1) {
    float* const mine = sums + buffer * (kSegments * (kGated ? 2 : 1) * 128);
    for (int half = 0; half < (kGated ? 2 : 1); ++half) {
      float d[4] = {};
      for (int unit = segment_first; unit < segment_last; unit += stage_units(kFormat)) {
        barrier_wait(&barriers[stage], parity);
        const uint8_t* const blocks = ring + stage * stage_bytes(kFormat);
        const int count = min(stage_units(kFormat), segment_last - unit);
        for (int u = 0; u < count; ++u) {
          float block_sum[4] = {};
          float(&into)[4] = kFormat == WeightFormat::fp8_block ? block_sum : d;
#pragma unroll
          for (int part = 0; part < unit_inputs(kFormat) / 64; ++part) {
            uint32_t a[4][4], b[2][4];
            load_fragments<kFormat>(blocks + u * unit_bytes(kFormat), part, lane, a);
            const __nv_bfloat16* x = x_lane + (unit + u) * unit_inputs(kFormat) + part * 64;
            load_matrices(b[0], x);
            load_matrices(b[1], x + 32);
#pragma unroll
            for (int k16 = 0; k16 < 4; ++k16) mma_bf16(into, a[k16], b[k16 / 2][k16 % 2 * 2], b[k16 / 2][k16 % 2 * 2 + 1]);
          }
          if constexpr (kFormat == WeightFormat::fp8_block) {
            int t = tile;
            const Part& weight = find_part<kGated>(p, half, t);
            const float scale = __ldg(weight.scales + int64_t{t / (128 / kTileOutputs)} * (p.slices * p.units) + slice * p.units + unit + u);
#pragma unroll
            for (int i = 0; i < 4; ++i) d[i] = fmaf(scale, block_sum[i], d[i]);
          }
        }
        __syncwarp();
        issue(stage);
        if (++stage == kStages) stage = 0, parity ^= 1;
      }
      *reinterpret_cast<float4*>(mine + (half * kSegments + segment) * 128 + lane * 4) = make_float4(d[0], d[1], d[2], d[3]);
    }
    named_barrier<kGroupThreads>(1 + group);
    // Half of the group adds this tile, the other half the next.
    const int i = static_cast<int>(threadIdx.x % kGroupThreads) - buffer * 128;
    if (i >= 0 && i < 128) {
      const auto add = [&](int half) {
        const float* s = mine + half * (kSegments * 128) + i;
        float total = s[0];
#pragma unroll
        for (int w = 1; w < kSegments; ++w) total += s[w * 128];
        return total;
      };
      const int row = (i / 4) % 4 * 2 + i % 2, output = i / 16 + (i % 4 / 2) * 8;
      int t = tile;
      const Part& part = find_part<kGated>(p, 0, t);
      const int column = t * kTileOutputs + output;
      if (row < p.rows && column < part.n) {
        if constexpr (kGated) {
          p.gated[int64_t{row} * part.n + column] = __float2bfloat16(gelu_tanh(add(0) * part.factor) * (add(1) * p.parts[1].factor));
        } else {
          part.out[slice * part.slice_stride + int64_t{row} * part.n + column] = add(0) * part.factor;
        }
      }
    }
  }
}

template <WeightFormat kFormat, bool kGated>
size_t shared_bytes(int slice_inputs, int rows) {
  return 1024 + kGroups * 2 * kSegments * (kGated ? 2 : 1) * 512 + kGroups * kSegments * num_stages(kFormat) * stage_bytes(kFormat) + size_t(rows) * (slice_inputs + 8) * 2;
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
  launch(narrow<kFormat, kGated>, dim3(ctas), dim3(kThreads), shared_bytes<kFormat, kGated>(p.units * unit_inputs(kFormat), p.rows), stream, p);
}
}  // namespace

void linear_narrow(const LinearCall& call, cudaStream_t stream) {
  const PackedWeight& first = call.targets[0].weight;
  Params p{.x = static_cast<const __nv_bfloat16*>(call.x), .gated = static_cast<__nv_bfloat16*>(call.gated), .parts = {}, .num_parts = call.num_targets, .rows = call.rows,
           .k = first.k, .units = first.units, .slices = first.slices, .tiles = 0};
  for (int i = 0; i < call.num_targets; ++i) {
    const Target& t = call.targets[i];
    p.parts[i] = {t.weight.blocks, t.weight.scales, t.out, t.slice_stride, t.weight.factor, t.weight.n, t.weight.tiles};
    p.tiles += t.weight.tiles;
  }
  if (call.gated) p.tiles = first.tiles;
  switch (first.format) {
    case WeightFormat::bf16: call.gated ? run<WeightFormat::bf16, true>(p, stream) : run<WeightFormat::bf16, false>(p, stream); break;
    case WeightFormat::fp8_block: call.gated ? run<WeightFormat::fp8_block, true>(p, stream) : run<WeightFormat::fp8_block, false>(p, stream); break;
    case WeightFormat::nvfp4: call.gated ? run<WeightFormat::nvfp4, true>(p, stream) : run<WeightFormat::nvfp4, false>(p, stream); break;
  }
}
}  // namespace nibble::cuda
