#include "kernels/cuda/attention.h"

#include <algorithm>

#include "kernels/cuda/attention_sum.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/prepared_head.cuh"

namespace nibble::cuda {
namespace {
// ---- Norms, rotation, and the write into the pages: a warp per row and head (queries, then keys, then values).
template <int kDim, int kSlices>
__global__ void __launch_bounds__(128) prepare(const __grid_constant__ QkvPrepare a) {
  constexpr int kPer = PreparedHead<kDim>::kPer;
  const int row = blockIdx.x, lane = threadIdx.x % 32, job = blockIdx.y * 4 + threadIdx.x / 32;
  let_next_kernel_start();
  if (job >= a.heads + 2 * a.kv_heads) return;
  wait_for_earlier_kernels();
  const int slot = a.slots[row];
  PreparedHead<kDim> head;
  head.template make<kSlices>(a, row, job, lane);
  if (kDim < 32 && lane >= kDim) return;
  if (job < a.heads) {
    float* const to = a.q + (int64_t{row} * a.heads + job) * kDim;
#pragma unroll
    for (int j = 0; j < kPer; ++j) to[j * 32 + lane] = head.x[j];
    return;
  }
  if (slot < 0) return;
  const bool is_v = job >= a.heads + a.kv_heads;
  const int64_t to = page_row(slot, a.kv_heads, job - a.heads - (is_v ? a.kv_heads : 0)) * kDim;
  void* const pages = is_v ? a.v_pages : a.k_pages;
#pragma unroll
  for (int j = 0; j < kPer; ++j) {
    if (a.e4m3) {
      static_cast<__nv_fp8_storage_t*>(pages)[to + j * 32 + lane] = to_e4m3(head.x[j]);
    } else {
      static_cast<__nv_bfloat16*>(pages)[to + j * 32 + lane] = __float2bfloat16(head.x[j]);
    }
  }
}

// ---- Partial attention of one tile of rows, one key/value head, one split.
constexpr int kThreads = 256, kWarps = 8, kManyBlocks = 100;
constexpr int kManySplits = 128;  // from so many on the join, which walks a row's runs one after another, finds them folded by a kernel that folds all at once

template <int kDim, int kM, bool kE4m3>  // kM: 16-row blocks of the tile
struct Shape {
  // Values wait in registers until the scores are done with the keys, then take their place: half the shared memory, twice the CTAs.
  static constexpr bool kInPlace = kM == 1 && (kE4m3 || kDim <= 256);
  static constexpr int kWidth = kDim < 32 ? 32 : kDim;               // of the tiles in shared memory; zeros beyond kDim
  static constexpr int kStride = kWidth + 8, kPStride = kKeyTile + 8;  // a 16-byte shift from row to row: no bank conflicts
  static constexpr int kColumns = kDim < 64 ? 8 : kDim / 8;          // of the output, a warp
  static constexpr int kRows = kM * 16;
  static constexpr int kSharedBytes = (kRows + (kInPlace ? 1 : 2) * kKeyTile) * kStride * 2 + kRows * kPStride * 2 + kWarps * kRows * 4;
};

// A block takes kUnit splits, one or a run; `kept`: places of `partial` a row and head.
template <int kDim, int kM, bool kE4m3, int kUnit>
__global__ void __launch_bounds__(kThreads, kDim <= 256 ? 2 : 1) attend(const __grid_constant__ Attention a, int first_tile, int kept) {
  using S = Shape<kDim, kM, kE4m3>;
  extern __shared__ __align__(16) uint8_t shared[];
  auto* const q_tile = reinterpret_cast<__nv_bfloat16*>(shared);
  auto* const k_tile = q_tile + S::kRows * S::kStride;
  auto* const v_tile = S::kInPlace ? k_tile : k_tile + kKeyTile * S::kStride;
  auto* const p_tile = v_tile + kKeyTile * S::kStride;
  auto* const maxima = reinterpret_cast<float*>(p_tile + S::kRows * S::kPStride);  // [kWarps][kRows]
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  let_next_kernel_start();
  const AttentionTile tile = a.pool.tiles[first_tile + blockIdx.x];
  const int kv_head = blockIdx.y, group = a.heads / a.kv_heads, keys_per_split = split_keys(a.window);
  const int highest = last_visible_key(a, tile), lowest = a.window > 0 ? max(0, tile.first_position - a.window + 1) : 0;
  const int number = lowest / keys_per_split / kUnit + blockIdx.z;  // of the split or the run
  const int first_key = max(number * kUnit * keys_per_split, lowest / kKeyTile * kKeyTile), last_key = min((number + 1) * kUnit * keys_per_split - 1, highest);
  wait_for_earlier_kernels();
  if (tile.rows == 0 || first_key > last_key) return;

  // Queries: row token * group + head of the group.
  for (int i = threadIdx.x; i < S::kRows * (S::kWidth / 8); i += kThreads) {
    const int row = i / (S::kWidth / 8), column = i % (S::kWidth / 8) * 8, token = row / group;
    uint4 v = make_uint4(0, 0, 0, 0);
    if (token < tile.rows && column < kDim) {
      const float4* from = reinterpret_cast<const float4*>(a.q + (int64_t{tile.first_row + token} * a.heads + kv_head * group + row % group) * kDim + column);
      const float4 x = from[0], y = from[1];
      v = make_uint4(pack_bf16(x.x, x.y), pack_bf16(x.z, x.w), pack_bf16(y.x, y.y), pack_bf16(y.z, y.w));
    }
    *reinterpret_cast<uint4*>(q_tile + row * S::kStride + column) = v;
  }

  float o[kM][S::kColumns / 8][4], l[kM][4], m[kM][2];                        // of the split
  float run_o[kM][S::kColumns / 8][4] = {}, run_l[kM][2] = {}, run_m[kM][2];  // of the splits folded so far, if there are several
#pragma unroll
  for (int r = 0; r < kM; ++r) run_m[r][0] = run_m[r][1] = -INFINITY;
  const int32_t* const pages = a.pool.pages + tile.first_page;
  constexpr int kLoads = kKeyTile * (S::kWidth / 8) / kThreads, kBatch = S::kInPlace || kLoads < 4 ? kLoads : 4;
  Raw<kE4m3> k[kBatch], v[kBatch];
  // Tables come in whole groups of four pages, so one load names a tile's pages; then all loads of a batch are under way before the first is stored.
  const auto fetch = [&](int tile_key, int first) {
    const int4 tile_pages = *reinterpret_cast<const int4*>(pages + tile_key / kPagePositions);
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      const int i = (first + j) * kThreads + threadIdx.x, key = i / (S::kWidth / 8), column = i % (S::kWidth / 8) * 8, quarter = key / kPagePositions;
      const int page = quarter == 0 ? tile_pages.x : quarter == 1 ? tile_pages.y : quarter == 2 ? tile_pages.z : tile_pages.w;
      k[j] = v[j] = Raw<kE4m3>{};
      if (page >= 0 && tile_key + key <= last_key && column < kDim) {
        const int64_t at = ((int64_t{page} * a.kv_heads + kv_head) * kPagePositions + key % kPagePositions) * kDim + column;
        k[j].load(a.k_pages, at);
        v[j].load(a.v_pages, at);
      }
    }
  };
  const auto store = [&](__nv_bfloat16* to, const Raw<kE4m3>(&values)[kBatch], int first) {
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      const int i = (first + j) * kThreads + threadIdx.x;
      *reinterpret_cast<uint4*>(to + i / (S::kWidth / 8) * S::kStride + i % (S::kWidth / 8) * 8) = values[j].widen();
    }
  };
  for (int tile_key = first_key; tile_key <= last_key; tile_key += kKeyTile) {
    if (tile_key == first_key || tile_key % keys_per_split == 0) {
#pragma unroll
      for (int r = 0; r < kM; ++r) {
        m[r][0] = m[r][1] = -INFINITY;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          l[r][i] = 0.0f;
#pragma unroll
          for (int c = 0; c < S::kColumns / 8; ++c) o[r][c][i] = 0.0f;
        }
      }
    }
    if (!S::kInPlace || kUnit == 1 || tile_key == first_key) fetch(tile_key, 0);
    __syncthreads();  // the tile before is done with
#pragma unroll
    for (int first = 0; first < kLoads; first += kBatch) {
      if (first > 0) fetch(tile_key, first);
      store(k_tile, k, first);
      if constexpr (!S::kInPlace) store(v_tile, v, first);
    }
    __syncthreads();

    // Scores of all rows with this warp's eight keys.
    float s[kM][4];
#pragma unroll
    for (int r = 0; r < kM; ++r) s[r][0] = s[r][1] = s[r][2] = s[r][3] = 0.0f;
#pragma unroll 4
    for (int d = 0; d < S::kWidth; d += 32) {
      uint32_t b[4];
      load_matrices(b, k_tile + (warp * 8 + lane % 8) * S::kStride + d + lane / 8 * 8);
#pragma unroll
      for (int r = 0; r < kM; ++r) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          uint32_t q[4];
          load_matrices(q, q_tile + (r * 16 + lane % 16) * S::kStride + d + half * 16 + lane / 16 * 8);
          mma_bf16(s[r], q, b[half * 2], b[half * 2 + 1]);
        }
      }
    }
#pragma unroll
    for (int r = 0; r < kM; ++r) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int row = r * 16 + g + h * 8;
        const VisibleKeys visible = visible_keys(a, tile, row / group);
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          if (!visible(tile_key + warp * 8 + 2 * t + e)) s[r][h * 2 + e] = -INFINITY;
        }
        float highest_here = fmaxf(s[r][h * 2], s[r][h * 2 + 1]);
        highest_here = fmaxf(highest_here, __shfl_xor_sync(0xffffffffu, highest_here, 1));
        highest_here = fmaxf(highest_here, __shfl_xor_sync(0xffffffffu, highest_here, 2));
        if (t == 0) maxima[warp * S::kRows + row] = highest_here;
      }
    }
    __syncthreads();
    if constexpr (S::kInPlace) {
      store(v_tile, v, 0);
      if (kUnit > 1 && tile_key + kKeyTile <= last_key) fetch(tile_key + kKeyTile, 0);  // under way while this tile is finished
    }
    float fade[kM][2];
#pragma unroll
    for (int r = 0; r < kM; ++r) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int row = r * 16 + g + h * 8;
        float next = m[r][h];
#pragma unroll
        for (int w = 0; w < kWarps; ++w) next = fmaxf(next, maxima[w * S::kRows + row]);
        const float base = finite_base(next);  // nothing seen yet: every p is 0
        fade[r][h] = m[r][h] == -INFINITY ? 0.0f : __expf(m[r][h] - base);
        m[r][h] = next;
        *reinterpret_cast<uint32_t*>(p_tile + row * S::kPStride + warp * 8 + 2 * t) = pack_bf16(__expf(s[r][h * 2] - base), __expf(s[r][h * 2 + 1] - base));
      }
    }
    __syncthreads();

    // Values: this warp's columns of the output. The sum of p is one more column, of ones.
#pragma unroll
    for (int r = 0; r < kM; ++r) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        l[r][i] *= fade[r][i / 2];
#pragma unroll
        for (int c = 0; c < S::kColumns / 8; ++c) o[r][c][i] *= fade[r][i / 2];
      }
    }
    const int first_column = warp * S::kColumns;
    if (first_column < kDim) {
#pragma unroll
      for (int k16 = 0; k16 < kKeyTile / 16; ++k16) {
        uint32_t p[kM][4];
#pragma unroll
        for (int r = 0; r < kM; ++r) {
          load_matrices(p[r], p_tile + (r * 16 + lane % 16) * S::kPStride + k16 * 16 + lane / 16 * 8);
          mma_bf16(l[r], p[r], 0x3F803F80u, 0x3F803F80u);
        }
        constexpr int kPairs = (S::kColumns + 15) / 16;
#pragma unroll
        for (int c = 0; c < kPairs; ++c) {
          uint32_t b[4];  // columns c * 16 .. + 7 in b[0], b[1]; + 8 .. in b[2], b[3]
          const int column = first_column + c * 16 + lane / 16 * 8;
          load_matrices_transposed(b, v_tile + (k16 * 16 + lane % 16) * S::kStride + (column < kDim ? column : first_column));
#pragma unroll
          for (int r = 0; r < kM; ++r) {
            mma_bf16(o[r][c * 2], p[r], b[0], b[1]);
            if constexpr (S::kColumns >= 16) mma_bf16(o[r][c * 2 + 1], p[r], b[2], b[3]);
          }
        }
      }
    }
    if (kUnit == 1 || ((tile_key + kKeyTile) % keys_per_split != 0 && tile_key + kKeyTile <= last_key)) continue;  // more of this split
#pragma unroll
    for (int r = 0; r < kM; ++r) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const Fold fold(run_m[r][h], m[r][h]);
        run_l[r][h] = fold(run_l[r][h], l[r][h * 2]);
#pragma unroll
        for (int c = 0; c < S::kColumns / 8; ++c) {
          run_o[r][c][h * 2] = fold(run_o[r][c][h * 2], o[r][c][h * 2]);
          run_o[r][c][h * 2 + 1] = fold(run_o[r][c][h * 2 + 1], o[r][c][h * 2 + 1]);
        }
      }
    }
  }

  const int first_column = warp * S::kColumns, place = number % kept;
  if (first_column >= kDim) return;
#pragma unroll
  for (int r = 0; r < kM; ++r) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = r * 16 + g + h * 8, token = row / group;
      if (token >= tile.rows) continue;
      const int local_row = tile.first_row + token - a.pool.tiles[first_tile].first_row;
      float* const to = a.partial + ((int64_t{local_row} * a.heads + kv_head * group + row % group) * kept + place) * (kDim + 2);
#pragma unroll
      for (int c = 0; c < S::kColumns / 8; ++c) {
        const float(&from)[4] = kUnit == 1 ? o[r][c] : run_o[r][c];
        *reinterpret_cast<float2*>(to + 2 + first_column + c * 8 + 2 * t) = make_float2(from[h * 2], from[h * 2 + 1]);
      }
      if (warp == 0 && t == 0) *reinterpret_cast<float2*>(to) = kUnit == 1 ? make_float2(m[r][h], l[r][h * 2]) : make_float2(run_m[r][h], run_l[r][h]);
    }
  }
}

// ---- Splits of a row and head into runs, in the place of a run's first split: a block a run. Without window.
__global__ void __launch_bounds__(256) fold_runs(const __grid_constant__ Attention a, int first_tile, int num_tiles, int kept) {
  let_next_kernel_start();
  wait_for_earlier_kernels();
  const int row = a.pool.tiles[first_tile].first_row + blockIdx.x, first = blockIdx.z * kRunSplits;
  const AttentionTile last_tile = a.pool.tiles[first_tile + num_tiles - 1];
  if (row >= last_tile.first_row + last_tile.rows) return;
  const int here = min(kRunSplits, a.positions[row] / split_keys(0) - first + 1);
  if (here <= 1) return;
  float* const at = a.partial + ((int64_t{static_cast<int>(blockIdx.x)} * a.heads + blockIdx.y) * kept + first) * (a.dim + 2);
  float2 state[kRunSplits];  // m, l
#pragma unroll
  for (int i = 0; i < kRunSplits; ++i) state[i] = i < here ? *reinterpret_cast<const float2*>(at + i * (a.dim + 2)) : make_float2(-INFINITY, 0.0f);
  const int column = threadIdx.x * 2;
  float2 o[kRunSplits];
#pragma unroll
  for (int i = 0; i < kRunSplits; ++i) o[i] = i < here && column < a.dim ? *reinterpret_cast<const float2*>(at + i * (a.dim + 2) + 2 + column) : make_float2(0.0f, 0.0f);
  float run_m = -INFINITY, run_l = 0.0f, run_x = 0.0f, run_y = 0.0f;
#pragma unroll
  for (int i = 0; i < kRunSplits; ++i) {
    if (state[i].x == -INFINITY) continue;
    const Fold fold(run_m, state[i].x);
    run_l = fold(run_l, state[i].y);
    run_x = fold(run_x, o[i].x);
    run_y = fold(run_y, o[i].y);
  }
  __syncthreads();  // everybody has read the first split
  if (column < a.dim) *reinterpret_cast<float2*>(at + 2 + column) = make_float2(run_x, run_y);
  if (threadIdx.x == 0) *reinterpret_cast<float2*>(at) = make_float2(run_m, run_l);
}

// ---- Splits, or runs of them, of a row and head into the output: 64 columns by 4 interleaved sums a block. A part is kUnit splits, parts lie `step` places apart.
template <int kUnit>
__global__ void __launch_bounds__(256) join(const __grid_constant__ Attention a, int first_tile, int num_tiles, int kept, int step) {
  __shared__ float weights[4][64], sums[4][64];
  let_next_kernel_start();
  wait_for_earlier_kernels();
  const int first_row = a.pool.tiles[first_tile].first_row, row = first_row + blockIdx.x, head = blockIdx.y;
  const int column = blockIdx.z * 64 + threadIdx.x % 64, part = threadIdx.x / 64;
  const AttentionTile last_tile = a.pool.tiles[first_tile + num_tiles - 1];
  if (row >= last_tile.first_row + last_tile.rows) return;
  const int position = a.positions[row], keys = split_keys(a.window) * kUnit;
  const int last = (a.last_visible ? a.last_visible[row] : position) / keys, first = a.window > 0 ? max(0, position - a.window + 1) / keys : 0;  // of what `partial` holds
  const float* const from = a.partial + (int64_t{static_cast<int>(blockIdx.x)} * a.heads + head) * kept * (a.dim + 2);
  const auto at = [&](int number) { return from + int64_t{number * step % kept} * (a.dim + 2); };

  float highest = -INFINITY;
  for (int i = first + static_cast<int>(threadIdx.x % 32); i <= last; i += 32) highest = fmaxf(highest, at(i)[0]);
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, offset));
  float sum = 0.0f, length = 0.0f;
  const bool inside = column < a.dim;
  constexpr int kPerRun = kRunSplits / kUnit;
  const int first_run = first / kPerRun, last_run = last / kPerRun;
#pragma unroll(kUnit == 1 ? 1 : 4)
  for (int run = first_run + (part - first_run % 4 + 4) % 4; run <= last_run; run += 4) {
    float m[kPerRun], l[kPerRun], o[kPerRun];
#pragma unroll
    for (int i = 0; i < kPerRun; ++i) {  // all loads first
      const int number = run * kPerRun + i;
      const bool here = number >= first && number <= last;
      const float* p = at(here ? number : first);
      m[i] = here ? p[0] : -INFINITY;
      l[i] = here ? p[1] : 0.0f;
      o[i] = here && inside ? p[2 + column] : 0.0f;
    }
    float run_m = -INFINITY, run_l = 0.0f, run_o = 0.0f;
#pragma unroll
    for (int i = 0; i < kPerRun; ++i) {
      if (m[i] == -INFINITY) continue;
      const Fold fold(run_m, m[i]);
      run_l = fold(run_l, l[i]);
      run_o = fold(run_o, o[i]);
    }
    const float weight = __expf(run_m - highest);
    length = __fmaf_rn(run_l, weight, length);
    sum = __fmaf_rn(run_o, weight, sum);
  }
  sums[part][threadIdx.x % 64] = sum;
  weights[part][threadIdx.x % 64] = length;
  __syncthreads();
  if (part > 0 || !inside) return;
  const int i = threadIdx.x % 64;
  sum = ((sums[0][i] + sums[1][i]) + sums[2][i]) + sums[3][i];
  length = ((weights[0][i] + weights[1][i]) + weights[2][i]) + weights[3][i];
  a.out[(int64_t{row} * a.heads + head) * a.dim + column] = __float2bfloat16(sum / length);
}

template <int kDim, int kM, bool kE4m3, int kUnit>
void run_unit(const Attention& a, int kept, cudaStream_t stream) {
  using S = Shape<kDim, kM, kE4m3>;
  static const bool ready = cudaFuncSetAttribute(attend<kDim, kM, kE4m3, kUnit>, cudaFuncAttributeMaxDynamicSharedMemorySize, S::kSharedBytes) == cudaSuccess;
  (void)ready;
  // As many tiles at a time as the scratch holds.
  const int tile_rows = attention_tile_rows(a.heads, a.kv_heads, a.long_tiles);
  const int64_t tile_bytes = int64_t{tile_rows} * a.heads * kept * (kDim + 2) * 4;
  const int batch = static_cast<int>(std::clamp<int64_t>(a.partial_bytes / tile_bytes, 1, a.pool.num_tiles));
  for (int first = 0; first < a.pool.num_tiles; first += batch) {
    const int tiles = std::min(batch, a.pool.num_tiles - first);
    launch(attend<kDim, kM, kE4m3, kUnit>, dim3(tiles, a.kv_heads, kept), dim3(kThreads), S::kSharedBytes, stream, a, first, kept);
    const unsigned rows = std::min(tiles * tile_rows, a.rows);
    const dim3 columns(rows, a.heads, (kDim + 63) / 64);
    if (kUnit == 1 && a.window == 0 && !a.last_visible && kept >= kManySplits) {
      launch(fold_runs, dim3(rows, a.heads, kept / kRunSplits), dim3(256), 0, stream, a, first, tiles, kept);
      launch(join<kRunSplits>, columns, dim3(256), 0, stream, a, first, tiles, kept, kRunSplits);
    } else {
      launch(join<kUnit>, columns, dim3(256), 0, stream, a, first, tiles, kept, 1);
    }
  }
}

template <int kDim, int kM, bool kE4m3>
void run(const Attention& a, cudaStream_t stream) {
  // Whole runs where they give most multiprocessors a block: their loads run ahead of the products, and nothing is left to fold.
  const int splits = a.pool.max_splits, runs = (splits + 2 * kRunSplits - 2) / kRunSplits;  // that so many splits may overlap
  if (int64_t{a.pool.num_tiles} * a.kv_heads * std::max(1, runs - 1) >= kManyBlocks) {
    run_unit<kDim, kM, kE4m3, kRunSplits>(a, runs, stream);
  } else {
    run_unit<kDim, kM, kE4m3, 1>(a, splits, stream);
  }
}

template <int kDim>
void run_dim(const Attention& a, cudaStream_t stream) {
  if (a.long_tiles) {
    a.e4m3 ? run<kDim, 2, true>(a, stream) : run<kDim, 2, false>(a, stream);
  } else {
    a.e4m3 ? run<kDim, 1, true>(a, stream) : run<kDim, 1, false>(a, stream);
  }
}
}  // namespace

bool attention_supports(int heads, int kv_heads, int dim) {
  const int group = kv_heads > 0 ? heads / kv_heads : 0;
  return group > 0 && 16 % group == 0 && (dim == 16 || dim == 32 || dim == 64 || dim == 128 || dim == 256 || dim == 512);
}

int attention_tile_rows(int heads, int kv_heads, bool long_tiles) { return (long_tiles ? 32 : 16) / (heads / kv_heads); }

int attention_splits(int first, int last, int window) {
  const int keys = split_keys(window), lowest = window > 0 ? std::max(0, first - window + 1) : 0;
  return last / keys - lowest / keys + 1;
}

namespace {
template <int kSlices>
void run_prepare(const QkvPrepare& a, cudaStream_t stream) {
  const dim3 grid(a.rows, (a.heads + 2 * a.kv_heads + 3) / 4), block(128);
  switch (a.dim) {
    case 16: launch(prepare<16, kSlices>, grid, block, 0, stream, a); break;
    case 32: launch(prepare<32, kSlices>, grid, block, 0, stream, a); break;
    case 64: launch(prepare<64, kSlices>, grid, block, 0, stream, a); break;
    case 128: launch(prepare<128, kSlices>, grid, block, 0, stream, a); break;
    case 256: launch(prepare<256, kSlices>, grid, block, 0, stream, a); break;
    default: launch(prepare<512, kSlices>, grid, block, 0, stream, a); break;
  }
}
}  // namespace

void qkv_prepare(const QkvPrepare& a, cudaStream_t stream) { a.slices == 1 ? run_prepare<1>(a, stream) : a.slices == 2 ? run_prepare<2>(a, stream) : run_prepare<4>(a, stream); }

void attention(const Attention& a, cudaStream_t stream) {
  if (attention_decode_fits(a)) return attention_decode(a, nullptr, stream);
  switch (a.dim) {
    case 16: run_dim<16>(a, stream); break;
    case 32: run_dim<32>(a, stream); break;
    case 64: run_dim<64>(a, stream); break;
    case 128: run_dim<128>(a, stream); break;
    case 256: run_dim<256>(a, stream); break;
    default: run_dim<512>(a, stream); break;
  }
}
}  // namespace nibble::cuda
