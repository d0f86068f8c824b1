// 9 rows and more. A CTA makes 128 outputs (two warpgroups of 64) for a tile of rows; with a gate, 64 of gate and the same 64 of up. A fifth-wheel warp
// keeps a ring of stages full: the units of 8 weight tiles, and the rows' 64 inputs in the swizzle that wgmma reads. Weights are unpacked into registers,
// one step ahead of the products that use them.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/unpack.cuh"
#include "kernels/cuda/wgmma.cuh"

#include <cuda.h>

namespace nibble::cuda {
namespace {
constexpr int kCtaTiles = 8, kConsumers = 256, kThreads = kConsumers + 32;
constexpr int kSharedLimit = 232448 - 1024;

template <WeightFormat kFormat, int kRows>
struct Layout {
  static constexpr int kParts = unit_inputs(kFormat) / 64;  // of 64 inputs
  static constexpr int kWeightBytes = (kCtaTiles * unit_bytes(kFormat) + 1023) / 1024 * 1024;
  static constexpr int kStageBytes = kWeightBytes + kParts * kRows * 128;
  // Two CTAs a multiprocessor for narrow row tiles, one where the sums need the registers.
  static constexpr int kCtas = kRows <= 32 ? 2 : 1;
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

// acc += of 64 inputs; the caller has waited for the stage.
template <WeightFormat kFormat, int kRows>
__device__ __forceinline__ void multiply(float (&acc)[kRows / 2], uint32_t (&a)[4][4], const uint8_t* unit, const uint8_t* x, int part, int lane, bool fresh) {
  load_fragments<kFormat>(unit, part, lane, a);
  const uint64_t b = swizzled_operand(x + part * kRows * 128);
  wgmma_fence();
#pragma unroll
  for (int k16 = 0; k16 < 4; ++k16) wgmma<kRows>(acc, a[k16], b + k16 * 2, !(fresh && k16 == 0));
  wgmma_commit();
}

template <WeightFormat kFormat, int kRows, bool kGated>
__global__ void __launch_bounds__(kThreads, (Layout<kFormat, kRows>::kCtas)) wide(const __grid_constant__ Params p, const __grid_constant__ CUtensorMap x_map) {
  using L = Layout<kFormat, kRows>;
  extern __shared__ uint8_t unaligned[];
  uint8_t* const shared = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(unaligned) + 1023) / 1024 * 1024);
  auto* const full = reinterpret_cast<uint64_t*>(shared);
  uint64_t* const empty = full + L::kStages;
  uint8_t* const ring = shared + 1024;
  // CTAs that run together share row tiles and weights in the second-level cache: eight row tiles take turns before the next outputs.
  const int together = gridDim.x * 8, number = blockIdx.y * gridDim.x + blockIdx.x;
  const int first_of_group = number / together * 8, rows_of_group = min(8, static_cast<int>(gridDim.y) - first_of_group);
  const int slice = blockIdx.z, first_row = (first_of_group + number % together % rows_of_group) * kRows;

  // Which 8 tiles: slots 0..3 are the first warpgroup's, 4..7 the second's.
  int block = number % together / rows_of_group, part_index = 0;
  if constexpr (!kGated) {
    while (block >= (p.parts[part_index].tiles + kCtaTiles - 1) / kCtaTiles) block -= (p.parts[part_index++].tiles + kCtaTiles - 1) / kCtaTiles;
  }
  const auto part_of = [&](int slot) -> const Part& { return p.parts[kGated ? slot / 4 : part_index]; };
  const auto tile_of = [&](int slot) { return kGated ? block * 4 + slot % 4 : block * kCtaTiles + slot; };

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
    // Lanes 0..7 fetch a tile's unit each, lane 8 the rows. The weights of the first stages do not wait for the kernel ahead.
    const int num_tiles = [&] {
      int count = 0;
      for (int slot = 0; slot < kCtaTiles; ++slot) count += tile_of(slot) < part_of(slot).tiles;
      return count;
    }();
    const uint32_t bytes = static_cast<uint32_t>(num_tiles * unit_bytes(kFormat) + L::kParts * kRows * 128);
    const bool has_tile = lane < kCtaTiles && tile_of(lane) < part_of(lane).tiles;
    const uint8_t* from = has_tile ? part_of(lane).blocks + (int64_t{slice} * part_of(lane).tiles + tile_of(lane)) * p.units * unit_bytes(kFormat) : nullptr;
    const auto fetch_weights = [&](int unit, int stage) {
      if (lane == 0) barrier_expect(&full[stage], bytes);
      __syncwarp();
      if (has_tile) bulk_load(ring + stage * L::kStageBytes + lane * unit_bytes(kFormat), from + int64_t{unit} * unit_bytes(kFormat), unit_bytes(kFormat), &full[stage]);
    };
    const auto fetch_rows = [&](int unit, int stage) {
      if (lane < L::kParts) {
        tensor_load(ring + stage * L::kStageBytes + L::kWeightBytes + lane * kRows * 128, &x_map, (slice * p.units + unit) * unit_inputs(kFormat) + lane * 64, first_row, &full[stage]);
      }
    };
    const int ahead = min(p.units, L::kStages);
    for (int unit = 0; unit < ahead; ++unit) fetch_weights(unit, unit);
    wait_for_earlier_kernels();
    for (int unit = 0; unit < ahead; ++unit) fetch_rows(unit, unit);
    int stage = ahead == L::kStages ? 0 : ahead, parity = 0;
    for (int unit = ahead; unit < p.units; ++unit) {
      barrier_wait(&empty[stage], parity);
      fetch_weights(unit, stage);
      fetch_rows(unit, stage);
      if (++stage == L::kStages) stage = 0, parity ^= 1;
    }
    return;
  }

  wait_for_earlier_kernels();  // the results are written where an earlier kernel may still read
  float acc[kRows / 2], total[kRows / 2];
#pragma unroll
  for (int i = 0; i < kRows / 2; ++i) acc[i] = total[i] = 0.0f;
  int stage = 0, parity = 0, segment = 0, segment_last = 0;

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
      multiply<kFormat, kRows>(unit_sum, a[0], at + warp * unit_bytes(kFormat), at + L::kWeightBytes, 0, lane, true);
      multiply<kFormat, kRows>(unit_sum, a[1], at + warp * unit_bytes(kFormat), at + L::kWeightBytes, 1, lane, false);
      wgmma_wait<0>();
      if (lane == 0) barrier_arrive(&empty[stage]);
      if (++stage == L::kStages) stage = 0, parity ^= 1;
#pragma unroll
      for (int i = 0; i < kRows / 2; ++i) acc[i] = fmaf(scale, unit_sum[i], acc[i]);
    }
  } else {
    uint32_t a[2][4][4];
    int previous = -1;
    const auto step = [&](uint32_t(&fragments)[4][4], int unit) {
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
      barrier_wait(&full[stage], parity);
      const uint8_t* at = ring + stage * L::kStageBytes;
      multiply<kFormat, kRows>(acc, fragments, at + warp * unit_bytes(kFormat), at + L::kWeightBytes, 0, lane, fresh);
      wgmma_wait<1>();  // the step before this one is done with its stage
      if (previous >= 0 && lane == 0) barrier_arrive(&empty[previous]);
      previous = stage;
      if (++stage == L::kStages) stage = 0, parity ^= 1;
    };
    int unit = 0;
    for (; unit + 1 < p.units; unit += 2) {
      step(a[0], unit);
      step(a[1], unit + 1);
    }
    if (unit < p.units) step(a[0], unit);
    wgmma_wait<0>();
  }
#pragma unroll
  for (int i = 0; i < kRows / 2; ++i) total[i] += acc[i];

  const int g = lane / 4, t = lane % 4, rows = min(kRows, p.rows - first_row);
  const Part& part = part_of(warp);
  const int column = tile_of(warp) * kTileOutputs + g;
  if constexpr (kGated) {
    // The second warpgroup hands its sums over through the ring.
    named_barrier<kConsumers>(1);
    float* const up = reinterpret_cast<float*>(ring) + (threadIdx.x % 128);
    if (warp >= 4) {
#pragma unroll
      for (int i = 0; i < kRows / 2; ++i) up[i * 128] = total[i] * part.factor;
    }
    named_barrier<kConsumers>(1);
    if (warp >= 4) return;
#pragma unroll
    for (int i = 0; i < kRows / 2; ++i) {
      const int row = i / 4 * 8 + 2 * t + i % 2, out = column + (i % 4 / 2) * 8;
      if (row < rows && out < part.n) p.gated[int64_t{first_row + row} * part.n + out] = __float2bfloat16(gelu_tanh(total[i] * part.factor) * up[i * 128]);
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
void run(const Params& p, int blocks, const CUtensorMap& x_map, cudaStream_t stream) {
  using L = Layout<kFormat, kRows>;
  static_assert(L::kStages >= 2 && L::kStages * L::kStageBytes >= (kGated ? kRows * 64 * 4 : 0));
  static const bool ready = cudaFuncSetAttribute(wide<kFormat, kRows, kGated>, cudaFuncAttributeMaxDynamicSharedMemorySize, L::kSharedBytes) == cudaSuccess;
  (void)ready;
  launch(wide<kFormat, kRows, kGated>, dim3(blocks, (p.rows + kRows - 1) / kRows, p.slices), dim3(kThreads), L::kSharedBytes, stream, p, x_map);
}

template <WeightFormat kFormat, bool kGated>
void run_rows(const Params& p, int row_tile, int blocks, const CUtensorMap& x_map, cudaStream_t stream) {
  switch (row_tile) {
    case 16: run<kFormat, 16, kGated>(p, blocks, x_map, stream); break;
    case 32: run<kFormat, 32, kGated>(p, blocks, x_map, stream); break;
    case 64: run<kFormat, 64, kGated>(p, blocks, x_map, stream); break;
    default:
      if constexpr (kFormat != WeightFormat::fp8_block) run<kFormat, 128, kGated>(p, blocks, x_map, stream);
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
  int blocks = 0;
  for (int i = 0; i < call.num_targets; ++i) {
    const Target& t = call.targets[i];
    p.parts[i] = {t.weight.blocks, t.weight.scales, t.out, t.slice_stride, t.weight.factor, t.weight.n, t.weight.tiles};
    blocks += (t.weight.tiles + kCtaTiles - 1) / kCtaTiles;
  }
  if (call.gated) blocks = (first.tiles + 3) / 4;
  const CUtensorMap& map = *static_cast<const CUtensorMap*>(x_map);
  const int row_tile = wide_row_tile(first.format, call.rows);
  switch (first.format) {
    case WeightFormat::bf16: call.gated ? run_rows<WeightFormat::bf16, true>(p, row_tile, blocks, map, stream) : run_rows<WeightFormat::bf16, false>(p, row_tile, blocks, map, stream); break;
    case WeightFormat::fp8_block: call.gated ? run_rows<WeightFormat::fp8_block, true>(p, row_tile, blocks, map, stream) : run_rows<WeightFormat::fp8_block, false>(p, row_tile, blocks, map, stream); break;
    case WeightFormat::nvfp4: call.gated ? run_rows<WeightFormat::nvfp4, true>(p, row_tile, blocks, map, stream) : run_rows<WeightFormat::nvfp4, false>(p, row_tile, blocks, map, stream); break;
  }
}
}  // namespace nibble::cuda
