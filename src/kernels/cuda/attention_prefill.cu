#include "kernels/cuda/attention_prefill.h"

#include <algorithm>

#include "kernels/cuda/attention_sum.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/wgmma_shared.cuh"

namespace nibble::cuda {
namespace {
// ---- Keys and values from their pages into tiles. Bound by memory: a CTA per key tile and head, keys and values apart.
template <int kDim, bool kE4m3>
__global__ void __launch_bounds__(256) gather(const __grid_constant__ Attention a, const KeyTile* tiles, uint4* keys, uint4* values) {
  constexpr int kChunks = kDim / 8, kLoads = kKeyTile * kChunks / 256;  // chunks of eight channels
  let_next_kernel_start();
  const KeyTile tile = tiles[blockIdx.x];
  const int4 pages = *reinterpret_cast<const int4*>(a.pool.pages + tile.first_page);  // tables come in groups of four
  const int kv_head = blockIdx.y;
  const void* const from = blockIdx.z == 0 ? a.k_pages : a.v_pages;
  uint4* const to = (blockIdx.z == 0 ? keys : values) + (int64_t{blockIdx.x} * a.kv_heads + kv_head) * (kKeyTile * kChunks);
  wait_for_earlier_kernels();
  Raw<kE4m3> values_of[kLoads];
#pragma unroll
  for (int j = 0; j < kLoads; ++j) {
    const int i = j * 256 + static_cast<int>(threadIdx.x), key = i / kChunks, column = i % kChunks * 8, quarter = key / kPagePositions;
    const int page = quarter == 0 ? pages.x : quarter == 1 ? pages.y : quarter == 2 ? pages.z : pages.w;
    if (key < tile.keys && page >= 0) values_of[j].load(from, ((int64_t{page} * a.kv_heads + kv_head) * kPagePositions + key % kPagePositions) * kDim + column);
  }
#pragma unroll
  for (int j = 0; j < kLoads; ++j) {
    const int i = j * 256 + static_cast<int>(threadIdx.x), key = i / kChunks, chunk = i % kChunks;
    to[chunk / 8 * (kKeyTile * 8) + key * 8 + (chunk % 8 ^ key % 8)] = values_of[j].widen();
  }
}

// ---- The products. Two warpgroups compute; one thread of a third keeps a ring of pieces full, of 64 keys x 128 channels each.
//   dim 256: each warpgroup has 64 rows of its own and all columns; both read every piece
//   dim 512: both have the same 64 rows. Each makes the scores of one of a split's two tiles, they exchange maxima and p, and each has half the columns
constexpr int kConsumers = 256, kThreads = 384, kPieceBytes = kKeyTile * 128 * 2, kBlockBytes = kKeyTile * 128;  // a block: 64 keys or rows x 64 channels
constexpr int kPartVectors = 33 * kConsumers;  // of a run: 32 x four sums, then m, m, l, l, a thread

struct Prefill {
  Attention a;
  const AttentionTile* tiles;
  const uint8_t *keys, *values;  // of key tile `first_key_tile`
  float4* parts;                 // [units][kv_heads][kept][33][kConsumers]
  int* counters;                 // [units][kv_heads], zeros
  int first_key_tile, kept, runs_per_cta;
};

template <int kDim>
struct Layout {
  static constexpr bool kHalves = kDim == 512;  // of the columns, a warpgroup
  static constexpr int kTilesPerCta = kHalves ? 1 : 2;
  static constexpr int kQueryBytes = kTilesPerCta * kWideTileRows * kDim * 2, kPBytes = kHalves ? 2 * kBlockBytes : 0;
  static constexpr int kStages = kHalves ? 9 : 10;
  static constexpr int kSharedBytes = 1024 + 1024 + kQueryBytes + kPBytes + kStages * kPieceBytes;
};
static_assert(Layout<256>::kSharedBytes <= 232448 && Layout<512>::kSharedBytes <= 232448);

// A consumer's or the producer's place in the ring.
template <int kStages>
struct Place {
  int stage, parity;
  __device__ void move(int by) {
    stage += by;
    if (stage >= kStages) stage -= kStages, parity ^= 1;
  }
};

// The keys that a CTA attends to: whole splits.
struct Range {
  int first_run, runs, begin_run, end_run;  // of the tiles; of this CTA, counted from first_run
  int first_split, last_split;              // of this CTA
};
__device__ __forceinline__ Range range_of(const Attention& a, const AttentionTile& first, const AttentionTile& last, int split, int runs_per_cta) {
  const int lowest = a.window > 0 ? max(0, first.first_position - a.window + 1) : 0;
  const int highest = last_visible_key(a, last.rows > 0 ? last : first);
  Range r;
  r.first_run = lowest / split / kRunSplits;
  r.runs = highest / split / kRunSplits - r.first_run + 1;
  r.begin_run = static_cast<int>(blockIdx.z) * runs_per_cta;
  r.end_run = min(r.begin_run + runs_per_cta, r.runs);
  r.first_split = max(lowest / split, (r.first_run + r.begin_run) * kRunSplits);
  r.last_split = min(highest / split, (r.first_run + r.end_run) * kRunSplits - 1);
  return r;
}

// Scores of this lane's two rows: what they do not see becomes -inf.
__device__ __forceinline__ void mask_scores(float (&s)[32], int tile_key, int t, const VisibleKeys (&visible)[2]) {
#pragma unroll
  for (int i = 0; i < 32; ++i) {
    if (!visible[i % 4 / 2](tile_key + i / 4 * 8 + 2 * t + i % 2)) s[i] = -INFINITY;
  }
}
__device__ __forceinline__ void row_maxima(const float (&s)[32], float (&highest)[2]) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    highest[h] = fmaxf(s[h * 2], s[h * 2 + 1]);
#pragma unroll
    for (int j = 1; j < 8; ++j) highest[h] = fmaxf(highest[h], fmaxf(s[j * 4 + h * 2], s[j * 4 + h * 2 + 1]));
    highest[h] = fmaxf(highest[h], __shfl_xor_sync(0xffffffffu, highest[h], 1));
    highest[h] = fmaxf(highest[h], __shfl_xor_sync(0xffffffffu, highest[h], 2));
  }
}
__device__ __forceinline__ uint32_t weights_of(const float (&s)[32], int pair, int h, float base) {
  return pack_bf16(__expf(s[pair * 4 + h * 2] - base), __expf(s[pair * 4 + h * 2 + 1] - base));
}

template <int kDim, int kTiles>  // kTiles: of 64 keys, a split
__global__ void __launch_bounds__(kThreads, 1) attend_wide(const __grid_constant__ Prefill p) {
  using L = Layout<kDim>;
  constexpr int kPieces = kDim / 128, kReaders = L::kHalves ? 4 : 8, kStep = L::kHalves ? 2 : 1, kSplit = kTiles * kKeyTile;
  static_assert(!L::kHalves || kTiles == 2);
  extern __shared__ uint8_t unaligned[];
  uint8_t* const shared = unaligned + (0u - shared_address(unaligned)) % 1024;
  auto* const full = reinterpret_cast<uint64_t*>(shared);
  uint64_t* const empty = full + L::kStages;
  auto* const maxima = reinterpret_cast<float*>(shared + 256);  // [2][64]
  auto* const is_last = reinterpret_cast<int*>(shared + 768);
  uint8_t* const q_tile = shared + 1024;
  uint8_t* const p_tile = q_tile + L::kQueryBytes;
  uint8_t* const ring = p_tile + L::kPBytes;
  const Attention& a = p.a;
  const int kv_head = blockIdx.y, group = a.heads / a.kv_heads;
  const AttentionTile first_tile = p.tiles[blockIdx.x * L::kTilesPerCta], last_tile = p.tiles[blockIdx.x * L::kTilesPerCta + L::kTilesPerCta - 1];
  if (threadIdx.x == 0) {
    for (int s = 0; s < L::kStages; ++s) {
      barrier_init(&full[s], 1);
      barrier_init(&empty[s], kReaders);
    }
    barrier_init_fence();
  }
  __syncthreads();
  let_next_kernel_start();
  wait_for_earlier_kernels();
  if (first_tile.rows == 0) return;
  const Range range = range_of(a, first_tile, last_tile, kSplit, p.runs_per_cta);
  if (range.begin_run >= range.runs) return;

  if (threadIdx.x >= kConsumers) {
    give_registers<24>();
    if (threadIdx.x > kConsumers) return;
    Place<L::kStages> place{0, 1};
    const auto fetch = [&](const uint8_t* from, int tile, int piece) {
      barrier_wait(&empty[place.stage], static_cast<uint32_t>(place.parity));
      barrier_expect(&full[place.stage], kPieceBytes);
      bulk_load(ring + place.stage * kPieceBytes, from + ((int64_t{tile} * a.kv_heads + kv_head) * kPieces + piece) * kPieceBytes, kPieceBytes, &full[place.stage]);
      place.move(1);
    };
    for (int split = range.first_split; split <= range.last_split; ++split) {
      const int tile = first_tile.first_page - p.first_key_tile + split * kTiles;
      if constexpr (L::kHalves) {  // the two warpgroups' pieces take turns
        for (int piece = 0; piece < kPieces; ++piece) {
          for (int i = 0; i < 2; ++i) fetch(p.keys, tile + i, piece);
        }
        for (int piece = 0; piece < kPieces / 2; ++piece) {
          for (int i = 0; i < 4; ++i) fetch(p.values, tile + i / 2, i % 2 * (kPieces / 2) + piece);
        }
      } else {
        for (int i = 0; i < kTiles * kPieces; ++i) fetch(p.keys, tile + i / kPieces, i % kPieces);
        for (int i = 0; i < kTiles * kPieces; ++i) fetch(p.values, tile + i % kTiles, i / kTiles);
      }
    }
    return;
  }
  take_registers<240>();

  const int thread = threadIdx.x % 128, group_number = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 128, 0), warp = thread / 32, lane = thread % 32, t = lane % 4, row = warp * 16 + lane / 4;
  const AttentionTile tile = L::kHalves || group_number == 0 ? first_tile : last_tile;
  uint8_t* const queries = q_tile + (L::kHalves ? 0 : group_number * (kWideTileRows * kDim * 2));
  // Queries, by the threads that use them: 64 rows token * group + head of the group, as blocks of 64 channels.
  constexpr int kLoaders = L::kHalves ? 256 : 128;
#pragma unroll 4
  for (int i = threadIdx.x % kLoaders; i < kWideTileRows * (kDim / 8); i += kLoaders) {
    const int r = i / (kDim / 8), chunk = i % (kDim / 8), token = r / group;
    uint4 v = make_uint4(0, 0, 0, 0);
    if (token < tile.rows) {
      const float4* from = reinterpret_cast<const float4*>(a.q + (int64_t{tile.first_row + token} * a.heads + kv_head * group + r % group) * kDim + chunk * 8);
      const float4 x = from[0], y = from[1];
      v = make_uint4(pack_bf16(x.x, x.y), pack_bf16(x.z, x.w), pack_bf16(y.x, y.y), pack_bf16(y.z, y.w));
    }
    *reinterpret_cast<uint4*>(queries + chunk / 8 * kBlockBytes + r * 128 + (chunk % 8 ^ r % 8) * 16) = v;
  }
  fence_shared_for_async();
  named_barrier<kConsumers>(1);

  // Masks the scores with 64 keys, unless every row sees all of them.
  const auto mask = [&](float (&s)[32], int tile_key) {
    if (tile_key + kKeyTile - 1 <= tile.first_position && (a.window == 0 || tile_key > tile.first_position + tile.rows - 1 - a.window)) return;
    mask_scores(s, tile_key, t, {visible_keys(a, tile, row / group), visible_keys(a, tile, (row + 8) / group)});
  };
  Place<L::kStages> place{L::kHalves ? group_number : 0, 0};
  const auto wait_full = [&] { barrier_wait(&full[place.stage], static_cast<uint32_t>(place.parity)); };
  const auto release = [&](int stage) {
    if (lane == 0) barrier_arrive(&empty[stage]);
  };
  float run_o[128] = {}, run_m[2], run_l[2] = {};
  const auto part_of = [&](int run) { return p.parts + ((int64_t{static_cast<int>(blockIdx.x)} * a.kv_heads + kv_head) * p.kept + run) * kPartVectors + threadIdx.x; };

  // Scores of the 64 rows with the 64 keys of the next pieces.
  const auto make_scores = [&](float (&s)[32]) {
    int before = 0;
    pin(s);
#pragma unroll
    for (int piece = 0; piece < kPieces; ++piece) {
      wait_full();
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        const uint64_t q = swizzled_operand(queries + (piece * 2 + k / 4) * kBlockBytes) + k % 4 * 2, b = swizzled_operand(ring + place.stage * kPieceBytes + k / 4 * kBlockBytes) + k % 4 * 2;
        wgmma<64>(s, q, b, piece > 0 || k > 0);
      }
      wgmma_commit();
      if (piece > 0) {
        wgmma_wait<1>();
        release(before);
      }
      before = place.stage;
      place.move(kStep);
    }
    wgmma_wait<0>();
    pin(s);
    release(before);
  };
  // Folds 64 columns of a split, or 128.
  const auto fold_columns = [&](const auto& o, int first, const Fold (&fold)[2]) {
#pragma unroll
    for (int i = 0; i < static_cast<int>(sizeof(o) / 4); ++i) run_o[first + i] = fold[i % 4 / 2](run_o[first + i], o[i]);
  };

  for (int split = range.first_split; split <= range.last_split; ++split) {
    if (split == range.first_split || split % kRunSplits == 0) run_m[0] = run_m[1] = -INFINITY;  // sums of the run before weigh nothing from here on
    float s[32], l[4] = {}, m[2];
    if constexpr (L::kHalves) {
      const int tile_key = split * kSplit + group_number * kKeyTile;
      make_scores(s);
      mask(s, tile_key);
      float own[2];
      row_maxima(s, own);
      if (t == 0) maxima[group_number * 64 + row] = own[0], maxima[group_number * 64 + row + 8] = own[1];
      named_barrier<kConsumers>(1);  // and the products of the split before have read its p
      float fade[2];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float other = maxima[(1 - group_number) * 64 + row + h * 8], m_first = group_number == 0 ? own[h] : other;
        m[h] = fmaxf(own[h], other);
        fade[h] = m_first == -INFINITY ? 0.0f : __expf(m_first - finite_base(m[h]));
        const float base = finite_base(group_number == 0 ? own[h] : m[h]);
        const int r = row + h * 8;
#pragma unroll
        for (int j = 0; j < 8; ++j) *reinterpret_cast<uint32_t*>(p_tile + group_number * kBlockBytes + r * 128 + (j ^ r % 8) * 16 + t * 4) = weights_of(s, j, h, base);
      }
      fence_shared_for_async();
      named_barrier<kConsumers>(1);
      // The sum of p is one more column, of ones.
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        uint32_t weights[4];
        const int r = warp * 16 + lane % 16;
        load_matrices(weights, p_tile + k / 4 * kBlockBytes + r * 128 + ((k % 4 * 2 + lane / 16) ^ r % 8) * 16);
        if (k == 4) l[0] *= fade[0], l[2] *= fade[1];
        mma_bf16(l, weights, 0x3F803F80u, 0x3F803F80u);
      }
      const Fold fold[2] = {Fold(run_m[0], m[0]), Fold(run_m[1], m[1])};
      run_l[0] = fold[0](run_l[0], l[0]);
      run_l[1] = fold[1](run_l[1], l[2]);
#pragma unroll
      for (int piece = 0; piece < kPieces / 2; ++piece) {
        float o[64];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          wait_full();
          pin(o);
          wgmma_fence();
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            wgmma_columns<128>(o, swizzled_operand(p_tile + i * kBlockBytes) + k * 2, swizzled_columns(ring + place.stage * kPieceBytes, kBlockBytes) + k * 128, i > 0 || k > 0);
          }
          wgmma_commit();
          wgmma_wait<0>();
          pin(o);
          release(place.stage);
          place.move(kStep);
          if (i > 0) continue;
#pragma unroll
          for (int e = 0; e < 64; ++e) o[e] *= fade[e % 4 / 2];
        }
        fold_columns(o, piece * 64, fold);
      }
    } else {
      uint32_t weights[kTiles][4][4];
      float fade[2] = {};
      const bool seen = split * kSplit <= last_visible_key(a, tile) && (a.window == 0 || split * kSplit + kSplit > tile.first_position - a.window + 1);
      if (!seen) {  // by the other warpgroup's rows only
#pragma unroll 1
        for (int i = 0; i < 2 * kTiles * kPieces; ++i) {
          wait_full();
          release(place.stage);
          place.move(1);
        }
      } else {
        m[0] = m[1] = -INFINITY;
#pragma unroll
        for (int i = 0; i < kTiles; ++i) {
          const int tile_key = split * kSplit + i * kKeyTile;
          make_scores(s);
          mask(s, tile_key);
          float own[2];
          row_maxima(s, own);
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            const float next = fmaxf(m[h], own[h]), base = finite_base(next);
            fade[h] = m[h] == -INFINITY ? 0.0f : __expf(m[h] - base);
            m[h] = next;
#pragma unroll
            for (int j = 0; j < 8; ++j) weights[i][j / 2][j % 2 * 2 + h] = weights_of(s, j, h, base);
          }
          if (i > 0) l[0] *= fade[0], l[2] *= fade[1];
#pragma unroll
          for (int k = 0; k < 4; ++k) mma_bf16(l, weights[i][k], 0x3F803F80u, 0x3F803F80u);  // the sum of p is one more column, of ones
        }
        const Fold fold[2] = {Fold(run_m[0], m[0]), Fold(run_m[1], m[1])};
        run_l[0] = fold[0](run_l[0], l[0]);
        run_l[1] = fold[1](run_l[1], l[2]);
        const auto multiply = [&](float (&o)[32], int tile_of_split, int half, bool fresh) {
          pin(o);
          wgmma_fence();
#pragma unroll
          for (int k = 0; k < 4; ++k) wgmma_columns<64>(o, weights[tile_of_split][k], swizzled_columns(ring + place.stage * kPieceBytes + half * kBlockBytes, kBlockBytes) + k * 128, !fresh || k > 0);
          wgmma_commit();
        };
        if constexpr (kTiles == 1) {
          // Columns 0, 64, 128, 192: while 64 are folded the next are multiplied.
          float even[32], odd[32];
          wait_full();
          multiply(even, 0, 0, true);
          multiply(odd, 0, 1, true);
          wgmma_wait<1>();
          pin(even);
          fold_columns(even, 0, fold);
          const int before = place.stage;
          place.move(1);
          wait_full();
          multiply(even, 0, 0, true);
          wgmma_wait<1>();
          pin(odd);
          release(before);
          fold_columns(odd, 32, fold);
          multiply(odd, 0, 1, true);
          wgmma_wait<1>();
          pin(even);
          fold_columns(even, 64, fold);
          wgmma_wait<0>();
          pin(odd);
          release(place.stage);
          place.move(1);
          fold_columns(odd, 96, fold);
        } else {
#pragma unroll
          for (int piece = 0; piece < kPieces; ++piece) {
            Place<L::kStages> second = place;
            second.move(1);
#pragma unroll
            for (int half = 0; half < 2; ++half) {
              float o[32];
              wait_full();
              multiply(o, 0, half, true);
              wgmma_wait<0>();
              pin(o);
#pragma unroll
              for (int e = 0; e < 32; ++e) o[e] *= fade[e % 4 / 2];
              const Place<L::kStages> first = place;
              place = second;
              wait_full();
              multiply(o, 1, half, false);
              wgmma_wait<0>();
              pin(o);
              place = first;
              fold_columns(o, (piece * 2 + half) * 32, fold);
            }
            release(place.stage);
            release(second.stage);
            place.move(2);
          }
        }
      }
    }
    if ((split == range.last_split || (split + 1) % kRunSplits == 0) && range.runs > 1) {
      float4* const to = part_of(split / kRunSplits - range.first_run);
#pragma unroll
      for (int i = 0; i < 32; ++i) __stcg(to + i * kConsumers, make_float4(run_o[i * 4], run_o[i * 4 + 1], run_o[i * 4 + 2], run_o[i * 4 + 3]));
      __stcg(to + 32 * kConsumers, make_float4(run_m[0], run_m[1], run_l[0], run_l[1]));
    }
  }

  // Out: this thread's columns 8 n + 2 t of its rows.
  const auto store = [&](int n, float x0, float x1, float y0, float y1) {
    const int column = (L::kHalves ? group_number * 256 : 0) + n * 8 + 2 * t;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int r = row + h * 8, token = r / group;
      if (token >= tile.rows) continue;
      *reinterpret_cast<uint32_t*>(a.out + (int64_t{tile.first_row + token} * a.heads + kv_head * group + r % group) * kDim + column) = h == 0 ? pack_bf16(x0, x1) : pack_bf16(y0, y1);
    }
  };
  if (range.runs == 1) {
#pragma unroll
    for (int n = 0; n < 32; ++n) {  // + 0: a sum that starts at 0, as the join's
      store(n, (run_o[n * 4] + 0.0f) / run_l[0], (run_o[n * 4 + 1] + 0.0f) / run_l[0], (run_o[n * 4 + 2] + 0.0f) / run_l[1], (run_o[n * 4 + 3] + 0.0f) / run_l[1]);
    }
    return;
  }
  // Several CTAs: the last to come joins what all have left.
  if (const int ctas = (range.runs + p.runs_per_cta - 1) / p.runs_per_cta; ctas > 1) {
    __threadfence();
    named_barrier<kConsumers>(1);
    if (threadIdx.x == 0) {
      int* const counter = p.counters + blockIdx.x * a.kv_heads + kv_head;
      *is_last = atomicAdd(counter, 1) == ctas - 1;
      if (*is_last) *counter = 0;
    }
    named_barrier<kConsumers>(1);
    if (!*is_last) return;
    __threadfence();
  }
  float top[2] = {-INFINITY, -INFINITY};
  for (int run = 0; run < range.runs; ++run) {
    const float4 state = __ldcg(part_of(run) + 32 * kConsumers);
    top[0] = fmaxf(top[0], state.x);
    top[1] = fmaxf(top[1], state.y);
  }
#pragma unroll 1
  for (int i = 0; i < 32; i += 8) {
    float total[8][4], total_l[2] = {};
#pragma unroll
    for (int interleaved = 0; interleaved < 4; ++interleaved) {
      float sum[8][4] = {}, sum_l[2] = {};
      for (int run = (interleaved - range.first_run % 4 + 4) % 4; run < range.runs; run += 4) {
        const float4* const from = part_of(run);
        const float4 state = __ldcg(from + 32 * kConsumers);
        float4 o[8];
#pragma unroll
        for (int j = 0; j < 8; ++j) o[j] = __ldcg(from + (i + j) * kConsumers);
        const float weights[2] = {__expf(state.x - top[0]), __expf(state.y - top[1])};
        sum_l[0] = __fmaf_rn(state.z, weights[0], sum_l[0]);
        sum_l[1] = __fmaf_rn(state.w, weights[1], sum_l[1]);
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          sum[j][0] = __fmaf_rn(o[j].x, weights[0], sum[j][0]);
          sum[j][1] = __fmaf_rn(o[j].y, weights[0], sum[j][1]);
          sum[j][2] = __fmaf_rn(o[j].z, weights[1], sum[j][2]);
          sum[j][3] = __fmaf_rn(o[j].w, weights[1], sum[j][3]);
        }
      }
#pragma unroll
      for (int h = 0; h < 2; ++h) total_l[h] = interleaved == 0 ? sum_l[h] : total_l[h] + sum_l[h];
#pragma unroll
      for (int j = 0; j < 32; ++j) total[j / 4][j % 4] = interleaved == 0 ? sum[j / 4][j % 4] : total[j / 4][j % 4] + sum[j / 4][j % 4];
    }
#pragma unroll
    for (int j = 0; j < 8; ++j) store(i + j, total[j][0] / total_l[0], total[j][1] / total_l[0], total[j][2] / total_l[1], total[j][3] / total_l[1]);
  }
}

int64_t gathered_bytes(const Attention& a, int key_tiles) { return int64_t{key_tiles} * a.kv_heads * kKeyTile * a.dim * 2 * 2; }  // keys and values
int64_t part_bytes(const Attention& a, int runs) { return int64_t{runs} * a.kv_heads * kPartVectors * 16; }                         // of a CTA's rows
// The gathered keys may take five eighths of the scratch.
int64_t gather_limit(const Attention& a) { return a.partial_bytes / 8 * 5; }

template <int kDim, int kTiles>
void run(const Attention& a, std::span<const WideSequence> sequences, int* counters, cudaStream_t stream) {
  using L = Layout<kDim>;
  static const bool ready = cudaFuncSetAttribute(attend_wide<kDim, kTiles>, cudaFuncAttributeMaxDynamicSharedMemorySize, L::kSharedBytes) == cudaSuccess;
  (void)ready;
  constexpr int kFullDevice = 132;
  auto* const scratch = reinterpret_cast<uint8_t*>(a.partial);
  for (size_t begin = 0; begin < sequences.size();) {
    size_t end = begin;
    int key_tiles = 0, kept = 1;
    for (; end < sequences.size() && (end == begin || gathered_bytes(a, key_tiles + sequences[end].num_key_tiles) <= gather_limit(a)); ++end) {
      key_tiles += sequences[end].num_key_tiles;
      kept = std::max(kept, sequences[end].max_runs);
    }
    const int64_t half = gathered_bytes(a, key_tiles) / 2;
    const int first_key_tile = sequences[begin].first_key_tile;
    launch(a.e4m3 ? gather<kDim, true> : gather<kDim, false>, dim3(key_tiles, a.kv_heads, 2), dim3(256), 0, stream, a, a.pool.key_tiles + first_key_tile, reinterpret_cast<uint4*>(scratch),
           reinterpret_cast<uint4*>(scratch + half));
    const int first_unit = sequences[begin].first_tile / L::kTilesPerCta, last_unit = (sequences[end - 1].first_tile + sequences[end - 1].num_tiles) / L::kTilesPerCta;
    // A CTA walks all runs of its rows where that leaves enough CTAs: its parts are then still in the cache when it joins them.
    const bool walk = a.window > 0 && (last_unit - first_unit) * a.kv_heads >= kFullDevice;
    const int runs_per_cta = walk ? kept : 1;
    const int64_t batch = std::max<int64_t>(1, std::min<int64_t>(kPrefillCounters / a.kv_heads, (a.partial_bytes - 2 * half) / part_bytes(a, kept)));
    for (int unit = first_unit; unit < last_unit; unit += static_cast<int>(batch)) {
      const Prefill prefill{.a = a, .tiles = a.pool.wide_tiles + unit * L::kTilesPerCta, .keys = scratch, .values = scratch + half, .parts = reinterpret_cast<float4*>(scratch + 2 * half),
                            .counters = counters, .first_key_tile = first_key_tile, .kept = kept, .runs_per_cta = runs_per_cta};
      launch(attend_wide<kDim, kTiles>, dim3(static_cast<unsigned>(std::min<int64_t>(batch, last_unit - unit)), a.kv_heads, (kept + runs_per_cta - 1) / runs_per_cta), dim3(kThreads), L::kSharedBytes,
             stream, prefill);
    }
    begin = end;
  }
}
}  // namespace

bool attention_prefill_supports(int heads, int kv_heads, int dim, int window) {
  return attention_supports(heads, kv_heads, dim) && kv_heads <= kPrefillCounters && (dim == 256 || (dim == 512 && window == 0));
}

int attention_prefill_runs(int first, int last, int window) {
  const int keys = split_keys(window) * kRunSplits, lowest = window > 0 ? std::max(0, first - window + 1) : 0;
  return last / keys - lowest / keys + 1;
}

bool attention_prefill_fits(const Attention& a, const WideSequence& sequence) {
  return gathered_bytes(a, sequence.num_key_tiles) <= gather_limit(a) && part_bytes(a, sequence.max_runs) <= a.partial_bytes - gather_limit(a);
}

void attention_prefill(const Attention& a, std::span<const WideSequence> sequences, int* counters, cudaStream_t stream) {
  if (a.dim == 512) {
    run<512, 2>(a, sequences, counters, stream);
  } else if (a.window > 0) {
    run<256, 1>(a, sequences, counters, stream);
  } else {
    run<256, 2>(a, sequences, counters, stream);
  }
}
}  // namespace nibble::cuda
