// 9 rows and more. A CTA makes 128 outputs (two warpgroups of 64) for a tile of rows; with a gate, half of them are gate's and half the same of up. One more
// warp keeps a ring of stages full: the units of the weight tiles, and the rows' 128 inputs in the swizzle that wgmma reads. Weights are unpacked into
// registers, one step ahead of the products that use them.
//
// Up to 32 rows two CTAs share a multiprocessor where there are enough blocks of outputs; else, and from 64 rows on, a CTA has one of its own, and the warp that
// fetches is part of a warpgroup that gives its registers to the others.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/unpack.cuh"
#include "kernels/cuda/wgmma.cuh"

#include <cuda.h>

#include <algorithm>

namespace nibble::cuda {
namespace {
constexpr int kMultiprocessors = 132;
constexpr int kSharedLimit = 232448 - 1024, kCtaTiles = 8, kConsumers = kCtaTiles * 32;

// kCtas: that share a multiprocessor.
template <WeightFormat kFormat, int kRows, int kCtas>
struct Layout {
  static constexpr int kThreads = kConsumers + (kCtas == 1 ? 128 : 32);
  static constexpr int kUnits = 128 / unit_inputs(kFormat);  // a stage is 128 inputs: of every pair of tiles its units, of the rows two runs of 64
  static constexpr int kPairBytes = kUnits * pair_unit_bytes(kFormat);
  static constexpr int kWeightBytes = kCtaTiles / 2 * kPairBytes;
  static constexpr int kStageBytes = kWeightBytes + 2 * kRows * 128;
  static constexpr int kStages = std::min(8, (kSharedLimit / kCtas - 4096) / kStageBytes);
  static constexpr int kSharedBytes = 2048 + kStages * kStageBytes;
  static_assert(kStages >= 2 && kWeightBytes % 1024 == 0 && kRows * 128 % 1024 == 0);
};

struct Params {
  __nv_bfloat16* gated;
  LinearPart parts[3];
  int num_parts, rows, units, slices;
};

// Half a unit at a time: 32 inputs of BF16, 64 of the others.
constexpr int half_k16(WeightFormat f) { return unit_inputs(f) / 32; }

// A warp's fragments of half `half` of a unit of its pair.
template <WeightFormat kFormat>
__device__ __forceinline__ void load_fragments(const uint8_t* pair, int tile, int half, int lane, uint32_t (&a)[half_k16(kFormat)][4]) {
  if constexpr (kFormat == WeightFormat::bf16) {
    const auto* const from = reinterpret_cast<const uint4*>(pair + tile * tile_bytes(kFormat) + half * 1024) + lane;
#pragma unroll
    for (int k16 = 0; k16 < 2; ++k16) {
      const uint4 v = from[k16 * 32];
      a[k16][0] = v.x, a[k16][1] = v.y, a[k16][2] = v.z, a[k16][3] = v.w;
    }
  } else if constexpr (kFormat == WeightFormat::fp8_block) {
    // The rows come as they are, so the weights carry the scale.
    const auto* const from = reinterpret_cast<const uint4*>(pair + tile * tile_bytes(kFormat) + half * 1024) + lane;
#pragma unroll
    for (int k32 = 0; k32 < 2; ++k32) {
      const uint4 v = from[k32 * 32];
      const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        uint32_t first, second;
        unpack_fp8(words[i], first, second);
        a[k32 * 2 + i / 2][i % 2 * 2] = multiply_bf16x2(first, kFp8InputScale);
        a[k32 * 2 + i / 2][i % 2 * 2 + 1] = multiply_bf16x2(second, kFp8InputScale);
      }
    }
  } else {
    const uint4 v = reinterpret_cast<const uint4*>(pair + tile * tile_bytes(kFormat) + half * 512)[lane];
    const uint2 s = *reinterpret_cast<const uint2*>(pair + kScalesAt + (half * 8 + lane / 4) * 16 + tile * 8);
    unpack_nvfp4_two(v.x, v.y, s.x, a[0], a[1]);
    unpack_nvfp4_two(v.z, v.w, s.y, a[2], a[3]);
  }
}

// acc += the products of half a unit, not waited for. rows: of the stage; run: of 64 inputs there.
template <int kRows, int kK16>
__device__ __forceinline__ void multiply(float (&acc)[kRows / 2], const uint32_t (&a)[kK16][4], const uint8_t* rows, int run, int first_k16, bool fresh) {
  const uint64_t b = swizzled_operand(rows + run * kRows * 128) + first_k16 * 2;
  wgmma_fence();
#pragma unroll
  for (int k16 = 0; k16 < kK16; ++k16) wgmma<kRows>(acc, a[k16], b + k16 * 2, !(fresh && k16 == 0));
  wgmma_commit();
}

template <WeightFormat kFormat, int kRows, bool kGated, int kCtas>
__global__ void __launch_bounds__((Layout<kFormat, kRows, kCtas>::kThreads), kCtas) wide(const __grid_constant__ Params p, const __grid_constant__ CUtensorMap x_map) {
  using L = Layout<kFormat, kRows, kCtas>;
  extern __shared__ uint8_t unaligned[];
  uint8_t* const shared = unaligned + (0u - shared_address(unaligned)) % 1024;
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
  const auto part_of = [&](int slot) -> const LinearPart& { return p.parts[kGated ? slot / (kCtaTiles / 2) : part_index]; };
  const auto tile_of = [&](int slot) { return kGated ? block * (kCtaTiles / 2) + slot % (kCtaTiles / 2) : block * kCtaTiles + slot; };
  const int steps = (p.units + L::kUnits - 1) / L::kUnits;

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
  if (warp >= kConsumers / 32) {
    if constexpr (kCtas == 1) fewer_registers<40>();
    if (warp > kConsumers / 32) return;
    // A lane a pair of tiles fetches its units, the first lane the rows as well. The weights of the first stages do not wait for the kernel ahead.
    const bool has_pair = lane < kCtaTiles / 2 && tile_of(lane * 2) < part_of(lane * 2).tiles;
    const int num_pairs = __popc(__ballot_sync(0xffffffffu, has_pair));
    const uint8_t* from = has_pair ? part_of(lane * 2).blocks + pair_offset(kFormat, slice, part_of(lane * 2).tiles, p.units, tile_of(lane * 2) / 2) : nullptr;
    const auto fetch_weights = [&](int step, int stage) {
      const int pair_bytes = min(L::kUnits, p.units - step * L::kUnits) * pair_unit_bytes(kFormat);
      if (lane == 0) barrier_expect(&full[stage], static_cast<uint32_t>(num_pairs * pair_bytes + 2 * kRows * 128));
      __syncwarp();
      if (has_pair) bulk_load(ring + stage * L::kStageBytes + lane * L::kPairBytes, from + int64_t{step} * L::kPairBytes, static_cast<uint32_t>(pair_bytes), &full[stage]);
    };
    const auto fetch_rows = [&](int step, int stage) {
      if (lane == 0) tensor_load(ring + stage * L::kStageBytes + L::kWeightBytes, &x_map, 0, first_row, slice * p.units * (unit_inputs(kFormat) / 64) + step * 2, &full[stage]);
    };
    const int ahead = min(steps, L::kStages);
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
  } else {
    if constexpr (kCtas == 1) more_registers<232>();
    wait_for_earlier_kernels();  // the results are written where an earlier kernel may still read
    float acc[kRows / 2], total[kRows / 2];  // of a segment; of those before
#pragma unroll
    for (int i = 0; i < kRows / 2; ++i) acc[i] = total[i] = 0.0f;
    const auto keep = [&] {
#pragma unroll
      for (int i = 0; i < kRows / 2; ++i) total[i] += acc[i];
    };
    const auto clear = [&] {
#pragma unroll
      for (int i = 0; i < kRows / 2; ++i) acc[i] = 0.0f;
    };
    int stage = 0, parity = 0;
    const auto next_stage = [&] {
      if (++stage == L::kStages) stage = 0, parity ^= 1;
    };
    const auto pair_in = [&](int s) { return ring + s * L::kStageBytes + warp / 2 * L::kPairBytes; };
    const auto rows_in = [&](int s) { return ring + s * L::kStageBytes + L::kWeightBytes; };
    uint32_t a[2][half_k16(kFormat)][4];

    if constexpr (kFormat == WeightFormat::fp8_block) {
      float unit_sum[kRows / 2];
#pragma unroll
      for (int i = 0; i < kRows / 2; ++i) unit_sum[i] = 0.0f;
      const LinearPart& part = part_of(warp);
      const float* scales = part.scales + int64_t{min(tile_of(warp), part.tiles - 1) / (128 / kTileOutputs)} * (p.slices * p.units) + slice * p.units;
      int segment = 0, segment_last = segment_begin(p.units, 1);
      barrier_wait(&full[stage], parity);
      load_fragments<kFormat>(pair_in(stage), warp % 2, 0, lane, a[0]);
      for (int unit = 0; unit < p.units; ++unit) {
        while (unit == segment_last) {
          keep();
          clear();
          segment_last = segment_begin(p.units, ++segment + 1);
        }
        const float scale = __ldg(scales + unit);
        multiply<kRows>(unit_sum, a[0], rows_in(stage), 0, 0, true);
        load_fragments<kFormat>(pair_in(stage), warp % 2, 1, lane, a[1]);
        multiply<kRows>(unit_sum, a[1], rows_in(stage), 1, 0, false);
        const int done = stage;
        next_stage();
        if (unit + 1 < p.units) {
          barrier_wait(&full[stage], parity);
          wgmma_wait<1>();
          load_fragments<kFormat>(pair_in(stage), warp % 2, 0, lane, a[0]);
        }
        wgmma_wait<0>();
        if (lane == 0) barrier_arrive(&empty[done]);
#pragma unroll
        for (int i = 0; i < kRows / 2; ++i) acc[i] = fmaf(scale, unit_sum[i], acc[i]);
      }
      // The last ones may be empty.
      for (; segment < kSegments; ++segment) {
        keep();
        clear();
      }
    } else {
      int previous = -1;  // a stage whose last products are under way
      for (int segment = 0; segment < kSegments; ++segment) {
        const int first = segment_begin(p.units, segment), last = segment_begin(p.units, segment + 1);
        for (int unit = first; unit < last; ++unit) {
          const int in_stage = L::kUnits == 1 ? 0 : unit % L::kUnits;
          if (in_stage == 0) barrier_wait(&full[stage], parity);
          const uint8_t* const pair = pair_in(stage) + in_stage * pair_unit_bytes(kFormat);
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            load_fragments<kFormat>(pair, warp % 2, half, lane, a[half]);
            L::kUnits == 1 ? multiply<kRows>(acc, a[half], rows_in(stage), half, 0, half == 0 && unit == first)
                           : multiply<kRows>(acc, a[half], rows_in(stage), in_stage, half * half_k16(kFormat), half == 0 && unit == first);
            wgmma_wait<1>();  // the products of the half before are done
            if (half == 0 && in_stage == 0 && previous >= 0 && lane == 0) barrier_arrive(&empty[previous]);
          }
          if (in_stage == L::kUnits - 1) {
            previous = stage;
            next_stage();
          }
        }
        wgmma_wait<0>();
        if (first == last) clear();
        keep();
      }
    }

    const int g = lane / 4, t = lane % 4, rows = min(kRows, p.rows - first_row);
    const LinearPart& part = part_of(warp);
    const int column = tile_of(warp) * kTileOutputs + g;
    if constexpr (kGated) {
      static_assert(L::kStages * L::kStageBytes >= kRows / 2 * kConsumers / 2 * 4);
      // Up's warps hand their sums over through the ring.
      named_barrier<kConsumers>(1);
      float* const up = reinterpret_cast<float*>(ring) + threadIdx.x % (kConsumers / 2);
      if (warp >= kCtaTiles / 2) {
#pragma unroll
        for (int i = 0; i < kRows / 2; ++i) up[i * (kConsumers / 2)] = total[i] * part.factor;
      }
      named_barrier<kConsumers>(1);
      if (warp < kCtaTiles / 2) {
#pragma unroll
        for (int i = 0; i < kRows / 2; ++i) {
          const int row = i / 4 * 8 + 2 * t + i % 2, out = column + (i % 4 / 2) * 8;
          if (row < rows && out < part.n) p.gated[int64_t{first_row + row} * part.n + out] = __float2bfloat16(gelu_tanh(total[i] * part.factor) * up[i * (kConsumers / 2)]);
        }
      }
    } else {
#pragma unroll
      for (int i = 0; i < kRows / 2; ++i) {
        const int row = i / 4 * 8 + 2 * t + i % 2, out = column + (i % 4 / 2) * 8;
        if (row < rows && out < part.n) part.out[slice * part.slice_stride + int64_t{first_row + row} * part.n + out] = total[i] * part.factor;
      }
    }
  }
}

template <WeightFormat kFormat, int kRows, bool kGated, int kCtas = kRows <= 32 ? 2 : 1>
void run(const Params& p, const CUtensorMap& x_map, cudaStream_t stream) {
  using L = Layout<kFormat, kRows, kCtas>;
  int blocks = 0;
  for (int i = 0; i < (kGated ? 1 : p.num_parts); ++i) blocks += (p.parts[i].tiles * (kGated ? 2 : 1) + kCtaTiles - 1) / kCtaTiles;
  if constexpr (kCtas == 2) {
    if (blocks * p.slices <= kMultiprocessors) return run<kFormat, kRows, kGated, 1>(p, x_map, stream);
  }
  constexpr auto kernel = wide<kFormat, kRows, kGated, kCtas>;
  static const bool ready = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, L::kSharedBytes) == cudaSuccess;
  (void)ready;
  launch(kernel, dim3(blocks, (p.rows + kRows - 1) / kRows, p.slices), dim3(L::kThreads), L::kSharedBytes, stream, p, x_map);
}

template <WeightFormat kFormat, bool kGated>
void run_rows(const Params& p, int row_tile, const CUtensorMap& x_map, cudaStream_t stream) {
  constexpr int kMost = kFormat == WeightFormat::fp8_block ? 96 : 160;
  switch (row_tile) {
    case 16: run<kFormat, 16, kGated>(p, x_map, stream); break;
    case 32: run<kFormat, 32, kGated>(p, x_map, stream); break;
    case 64: run<kFormat, 64, kGated>(p, x_map, stream); break;
    case 128:
      if constexpr (kFormat != WeightFormat::fp8_block) run<kFormat, 128, kGated>(p, x_map, stream);
      break;
    default: run<kFormat, kMost, kGated>(p, x_map, stream);
  }
}
}  // namespace

int wide_row_tile(WeightFormat format, int rows) {
  if (rows <= 64) return rows <= 16 ? 16 : rows <= 32 ? 32 : 64;
  // FP8 keeps three sums a value (of a unit, a segment, all): more than 96 rows would not fit the registers.
  if (format == WeightFormat::fp8_block) return 96;
  const auto padded = [&](int tile) { return (rows + tile - 1) / tile * tile; };
  return padded(160) <= padded(128) + rows / 32 ? 160 : 128;  // 160 unpack a weight for more rows
}

void linear_wide(const LinearCall& call, const void* x_map, cudaStream_t stream) {
  const PackedWeight& first = call.targets[0].weight;
  Params p{.gated = static_cast<__nv_bfloat16*>(call.gated), .parts = {}, .num_parts = call.num_targets, .rows = call.rows, .units = first.units, .slices = first.slices};
  for (int i = 0; i < call.num_targets; ++i) p.parts[i] = linear_part(call.targets[i]);
  const CUtensorMap& map = *static_cast<const CUtensorMap*>(x_map);
  const int row_tile = wide_row_tile(first.format, call.rows);
  switch (first.format) {
    case WeightFormat::bf16: call.gated ? run_rows<WeightFormat::bf16, true>(p, row_tile, map, stream) : run_rows<WeightFormat::bf16, false>(p, row_tile, map, stream); break;
    case WeightFormat::fp8_block: call.gated ? run_rows<WeightFormat::fp8_block, true>(p, row_tile, map, stream) : run_rows<WeightFormat::fp8_block, false>(p, row_tile, map, stream); break;
    case WeightFormat::nvfp4: call.gated ? run_rows<WeightFormat::nvfp4, true>(p, row_tile, map, stream) : run_rows<WeightFormat::nvfp4, false>(p, row_tile, map, stream); break;
  }
}
}  // namespace nibble::cuda
