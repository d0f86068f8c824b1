// 9 rows and more. A CTA makes 128 outputs (two warpgroups of 64) for a tile of rows, or 64 when rows are few and CTAs should be many; with a gate, half of
// them are gate's and half the same of up. One more warp keeps a ring of stages full: the units of the weight tiles, and the rows' 64 inputs in the swizzle
// that wgmma reads. Weights are unpacked into registers,
// one step ahead of the products that use them.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/unpack.cuh"
#include "kernels/cuda/wgmma.cuh"

#include <cuda.h>

namespace nibble::cuda {
namespace {
constexpr int kSharedLimit = 232448 - 1024;

template <WeightFormat kFormat, int kRows>
struct Layout {
  static constexpr int kCtaTiles = kRows <= 32 ? 4 : 8;
  static constexpr int kConsumers = kCtaTiles * 32, kThreads = kConsumers + 32;
  static constexpr int kUnits = 128 / unit_inputs(kFormat);  // a stage is 128 inputs: of every pair of tiles its units, of the rows two runs of 64
  static constexpr int kPairBytes = kUnits * 2 * unit_bytes(kFormat);
  static constexpr int kWeightBytes = (kCtaTiles / 2 * kPairBytes + 1023) / 1024 * 1024;
  static constexpr int kStageBytes = kWeightBytes + 2 * kRows * 128;
  // Four CTAs a multiprocessor for narrow row tiles, one where the sums need the registers.
  static constexpr int kCtas = kRows <= 32 ? 4 : 1;
  static constexpr int kFits = (kSharedLimit / kCtas - 3072) / kStageBytes;
  static constexpr int kStages = kFits > 12 ? 12 : kFits;
  static constexpr int kSharedBytes = 2048 + kStages * kStageBytes;
};

struct Part {
  const uint8_t* blocks;
  const float* scales;
  float* out;
  int64_t slice_stride;
  float factor;
  int n, tiles;
};
struct Params {
  __nv_bfloat16* gated;
  Part parts[3];
  int num_parts, rows, units, slices;
};

// acc += of run `run` of a stage's 64 inputs; the caller has waited for the stage. `tile`: the warp's first unit there.
template <WeightFormat kFormat, int kRows>
__device__ __forceinline__ void multiply(float (&acc)[kRows / 2], uint32_t (&a)[4][4], const uint8_t* tile, const uint8_t* rows, int run, int lane, bool fresh) {
  if constexpr (kFormat == WeightFormat::fp8_block) {
    load_fragments<kFormat>(tile, run, lane, a);
  } else {
    load_fragments<kFormat>(tile + run * 2 * unit_bytes(kFormat), 0, lane, a);
  }
  const uint64_t b = swizzled_operand(rows + run * kRows * 128);
  wgmma_fence();
#pragma unroll
  for (int k16 = 0; k16 < 4; ++k16) wgmma<kRows>(acc, a[k16], b + k16 * 2, !(fresh && k16 == 0));
  wgmma_commit();
}

template <WeightFormat kFormat, int kRows, bool kGated>
__global__ void __launch_bounds__((Layout<kFormat, kRows>::kThreads), (Layout<kFormat, kRows>::kCtas)) wide(const __grid_constant__ Params p, const __grid_constant__ CUtensorMap x_map) {
  using L = Layout<kFormat, kRows>;
  constexpr int kCtaTiles = L::kCtaTiles, kConsumers = L::kConsumers;
  extern __shared__ uint8_t unaligned[];
  uint8_t* const shared = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(unaligned) + 1023) / 1024 * 1024);
  auto* const full = reinterpret_cast<uint64_t*>(shared);
  uint64_t* const empty = full + L::kStages;
  uint8_t* const ring = shared + 1024;
  // CTAs that run together share row tiles and weights in the second-level cache: eight row tiles take turns before the next outputs.
  const int together = gridDim.x * 8, number = blockIdx.y * gridDim.x + blockIdx.x;
  const int first_of_group = number / together * 8, rows_of_group = min(8, static_cast<int>(gridDim.y) - first_of_group);
  const int slice = blockIdx.z, first_row = (first_of_group + number % together % rows_of_group) * kRows;

  // Which tiles: a slot is a warp's. With a gate the first half of the slots is gate's.
  int block = number % together / rows_of_group, part_index = 0;
  if constexpr (!kGated) {
    while (block >= (p.parts[part_index].tiles + kCtaTiles - 1) / kCtaTiles) block -= (p.parts[part_index++].tiles + kCtaTiles - 1) / kCtaTiles;
  }
  const auto part_of = [&](int slot) -> const Part& { return p.parts[kGated ? slot / (kCtaTiles / 2) : part_index]; };
  const auto tile_of = [&](int slot) { return kGated ? block * (kCtaTiles / 2) + slot % (kCtaTiles / 2) : block * kCtaTiles + slot; };

  if (threadIdx.x == 0) {
    for (int s = 0; s < L::kStages; ++s) {
      barrier_init(&full[s], 1);
      barrier_init(&empty[s], kConsumers / 32);
    }
    barrier_init_fence();
  }
  __syncthreads();
  let_next_kernel_start();

  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (warp == kConsumers / 32) {
    // A lane a pair of tiles fetches its units, the first lane the rows as well. The weights of the first stages do not wait for the kernel ahead.
    const bool has_pair = lane < kCtaTiles / 2 && tile_of(lane * 2) < part_of(lane * 2).tiles;
    const int num_pairs = __popc(__ballot_sync(0xffffffffu, has_pair));
    const uint8_t* from = has_pair ? part_of(lane * 2).blocks + pair_offset(kFormat, slice, part_of(lane * 2).tiles, p.units, tile_of(lane * 2) / 2) : nullptr;
    const auto fetch_weights = [&](int step, int stage) {
      const int pair_bytes = min(L::kUnits, p.units - step * L::kUnits) * 2 * unit_bytes(kFormat);
      if (lane == 0) barrier_expect(&full[stage], static_cast<uint32_t>(num_pairs * pair_bytes + 2 * kRows * 128));
      __syncwarp();
      if (has_pair) bulk_load(ring + stage * L::kStageBytes + lane * L::kPairBytes, from + int64_t{step} * L::kPairBytes, static_cast<uint32_t>(pair_bytes), &full[stage]);
    };
    const auto fetch_rows = [&](int step, int stage) {
      if (lane == 0) tensor_load(ring + stage * L::kStageBytes + L::kWeightBytes, &x_map, 0, first_row, slice * p.units * (unit_inputs(kFormat) / 64) + step * 2, &full[stage]);
    };
    const int steps = (p.units + L::kUnits - 1) / L::kUnits, ahead = min(steps, L::kStages);
    for (int step = 0; step < ahead; ++step) fetch_weights(step, step);
    wait_for_earlier_kernels();
    for (int step = 0; step < ahead; ++step) fetch_rows(step, step);
    int stage = ahead == L::kStages ? 0 : ahead, parity = 0;
    for (int step = ahead; step < steps; ++step) {
      barrier_wait(&empty[stage], parity);
      fetch_weights(step, stage);
      fetch_rows(step, stage);
      if (++stage == L::kStages) stage = 0, parity ^= 1;
    }
    return;
  }

  wait_for_earlier_kernels();  // the results are written where an earlier kernel may still read
  float acc[kRows / 2], total[kRows / 2];
#pragma unroll
  for (int i = 0; i < kRows / 2; ++i) acc[i] = total[i] = 0.0f;
  int stage = 0, parity = 0, segment = 0, segment_last = 0;
  const int own_tile = warp / 2 * L::kPairBytes + warp % 2 * unit_bytes(kFormat);  // in a stage

  if constexpr (kFormat == WeightFormat::fp8_block) {
    float unit_sum[kRows / 2];
#pragma unroll
    for (int i = 0; i < kRows / 2; ++i) unit_sum[i] = 0.0f;
    const Part& part = part_of(warp);
    const float* scales = part.scales + int64_t{min(tile_of(warp), part.tiles - 1) / (128 / kTileOutputs)} * (p.slices * p.units) + slice * p.units;
    for (int unit = 0; unit < p.units; ++unit) {
      while (unit == segment_last) {
#pragma unroll
        for (int i = 0; i < kRows / 2; ++i) total[i] += acc[i], acc[i] = 0.0f;
        segment_last = segment_begin(p.units, ++segment);
      }
      const float scale = __ldg(scales + unit);
      barrier_wait(&full[stage], parity);
      const uint8_t* at = ring + stage * L::kStageBytes;
      uint32_t a[2][4][4];
      multiply<kFormat, kRows>(unit_sum, a[0], at + own_tile, at + L::kWeightBytes, 0, lane, true);
      multiply<kFormat, kRows>(unit_sum, a[1], at + own_tile, at + L::kWeightBytes, 1, lane, false);
      wgmma_wait<0>();
      if (lane == 0) barrier_arrive(&empty[stage]);
      if (++stage == L::kStages) stage = 0, parity ^= 1;
#pragma unroll
      for (int i = 0; i < kRows / 2; ++i) acc[i] = fmaf(scale, unit_sum[i], acc[i]);
    }
  } else {
    uint32_t a[2][4][4];
    int previous = -1;
    const auto step = [&](uint32_t(&fragments)[4][4], int unit, int run) {
      bool fresh = unit == 0;
      while (unit == segment_last) {  // a segment ends before this unit: its sum joins the total
        if (!fresh) {
          wgmma_wait<0>();
#pragma unroll
          for (int i = 0; i < kRows / 2; ++i) total[i] += acc[i];
        }
        fresh = true;
        segment_last = segment_begin(p.units, ++segment);
      }
      const uint8_t* at = ring + stage * L::kStageBytes;
      multiply<kFormat, kRows>(acc, fragments, at + own_tile, at + L::kWeightBytes, run, lane, fresh);
      wgmma_wait<1>();  // the products of the step before are done
    };
    int unit = 0;
    for (; unit + 1 < p.units; unit += 2) {
      barrier_wait(&full[stage], parity);
      step(a[0], unit, 0);
      if (previous >= 0 && lane == 0) barrier_arrive(&empty[previous]);
      step(a[1], unit + 1, 1);
      previous = stage;
      if (++stage == L::kStages) stage = 0, parity ^= 1;
    }
    if (unit < p.units) {
      barrier_wait(&full[stage], parity);
      step(a[0], unit, 0);
    }
    wgmma_wait<0>();
  }
#pragma unroll
  for (int i = 0; i < kRows / 2; ++i) total[i] += acc[i];

  const int g = lane / 4, t = lane % 4, rows = min(kRows, p.rows - first_row);
  const Part& part = part_of(warp);
  const int column = tile_of(warp) * kTileOutputs + g;
  if constexpr (kGated) {
    // Up's warps hand their sums over through the ring.
    named_barrier<kConsumers>(1);
    float* const up = reinterpret_cast<float*>(ring) + threadIdx.x % (kConsumers / 2);
    if (warp >= kCtaTiles / 2) {
#pragma unroll
      for (int i = 0; i < kRows / 2; ++i) up[i * (kConsumers / 2)] = total[i] * part.factor;
    }
    named_barrier<kConsumers>(1);
    if (warp >= kCtaTiles / 2) return;
#pragma unroll
    for (int i = 0; i < kRows / 2; ++i) {
      const int row = i / 4 * 8 + 2 * t + i % 2, out = column + (i % 4 / 2) * 8;
      if (row < rows && out < part.n) p.gated[int64_t{first_row + row} * part.n + out] = __float2bfloat16(gelu_tanh(total[i] * part.factor) * up[i * (kConsumers / 2)]);
    }
  } else {
#pragma unroll
    for (int i = 0; i < kRows / 2; ++i) {
      const int row = i / 4 * 8 + 2 * t + i % 2, out = column + (i % 4 / 2) * 8;
      if (row < rows && out < part.n) part.out[slice * part.slice_stride + int64_t{first_row + row} * part.n + out] = total[i] * part.factor;
    }
  }
}

template <WeightFormat kFormat, int kRows, bool kGated>
void run(const Params& p, const CUtensorMap& x_map, cudaStream_t stream) {
  using L = Layout<kFormat, kRows>;
  int blocks = 0;
  for (int i = 0; i < (kGated ? 1 : p.num_parts); ++i) blocks += (p.parts[i].tiles * (kGated ? 2 : 1) + L::kCtaTiles - 1) / L::kCtaTiles;
  static_assert(L::kStages >= 2 && L::kStages * L::kStageBytes >= (kGated ? kRows / 2 * L::kConsumers / 2 * 4 : 0));
  static const bool ready = cudaFuncSetAttribute(wide<kFormat, kRows, kGated>, cudaFuncAttributeMaxDynamicSharedMemorySize, L::kSharedBytes) == cudaSuccess;
  (void)ready;
  launch(wide<kFormat, kRows, kGated>, dim3(blocks, (p.rows + kRows - 1) / kRows, p.slices), dim3(L::kThreads), L::kSharedBytes, stream, p, x_map);
}

template <WeightFormat kFormat, bool kGated>
void run_rows(const Params& p, int row_tile, const CUtensorMap& x_map, cudaStream_t stream) {
  switch (row_tile) {
    case 16: run<kFormat, 16, kGated>(p, x_map, stream); break;
    case 32: run<kFormat, 32, kGated>(p, x_map, stream); break;
    case 64: run<kFormat, 64, kGated>(p, x_map, stream); break;
    default:
      if constexpr (kFormat != WeightFormat::fp8_block) run<kFormat, 128, kGated>(p, x_map, stream);
  }
}
}  // namespace

int wide_row_tile(WeightFormat format, int rows) {
  // FP8 keeps three sums a value (of a unit, a segment, all): 128 rows would not fit the registers.
  return rows <= 16 ? 16 : rows <= 32 ? 32 : rows <= 64 || format == WeightFormat::fp8_block ? 64 : 128;
}

void linear_wide(const LinearCall& call, const void* x_map, cudaStream_t stream) {
  const PackedWeight& first = call.targets[0].weight;
  Params p{.gated = static_cast<__nv_bfloat16*>(call.gated), .parts = {}, .num_parts = call.num_targets, .rows = call.rows, .units = first.units, .slices = first.slices};
  for (int i = 0; i < call.num_targets; ++i) {
    const Target& t = call.targets[i];
    p.parts[i] = {t.weight.blocks, t.weight.scales, t.out, t.slice_stride, t.weight.factor, t.weight.n, t.weight.tiles};
  }
  const CUtensorMap& map = *static_cast<const CUtensorMap*>(x_map);
  const int row_tile = wide_row_tile(first.format, call.rows);
  switch (first.format) {
    case WeightFormat::bf16: call.gated ? run_rows<WeightFormat::bf16, true>(p, row_tile, map, stream) : run_rows<WeightFormat::bf16, false>(p, row_tile, map, stream); break;
    case WeightFormat::fp8_block: call.gated ? run_rows<WeightFormat::fp8_block, true>(p, row_tile, map, stream) : run_rows<WeightFormat::fp8_block, false>(p, row_tile, map, stream); break;
    case WeightFormat::nvfp4: call.gated ? run_rows<WeightFormat::nvfp4, true>(p, row_tile, map, stream) : run_rows<WeightFormat::nvfp4, false>(p, row_tile, map, stream); break;
  }
}
}  // namespace nibble::cuda
