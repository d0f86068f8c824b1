// Few rows of a sequence on sliding layers with E4M3 pages, from its projections to what it attended to, in one launch. A cluster of CTAs takes a tile of up to
// kTokens tokens and one key/value head. Four warps share a split of 64 keys: for the scores 16 keys each, for the values 64 channels each; a split's result
// goes to the CTAs of the cluster by columns, and each folds and joins its own, so that nothing goes through memory.
//
// The products are turned round, keys and channels as the 16 rows of m16n8k16 and queries as its 8 columns: little is wasted, and probabilities move from one
// product to the next by movmatrix. The sums are attention.h's, to the bit.
//
// What counts for few sequences is the latency: keys and values that lie in the pages are fetched while the projections are still being made; those of this step's
// own rows, which nobody has yet, are put in their place in shared memory.
#include <algorithm>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_sum.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/prepared_head.cuh"

namespace nibble::cuda {
namespace {
constexpr int kDim = 256, kGroup = 2, kWarps = 8, kThreads = kWarps * 32, kMostSplits = 18, kQueries = 8;
constexpr int kSplitWarps = 4, kSplitThreads = kSplitWarps * 32, kSplitGroups = kWarps / kSplitWarps;
constexpr int kMostTokens = 8, kManyClusters = 264;  // of a tile; that fill the device
constexpr int kKeyStride = kDim + 16, kValueStride = kDim / kSplitWarps + 16, kQueryStride = kDim + 8;  // bytes, bytes, bf16: 16 bytes from row to row keep banks apart
constexpr int kStagingBytes = std::max(16 * kKeyStride, kKeyTile * kValueStride);                      // of a warp: its keys, then its channels of all values

template <int kTokens, int kCluster>
struct Shared {
  static constexpr int kRows = kTokens * kGroup, kColumns = kDim / kCluster;
  __nv_bfloat16 queries[kQueries][kQueryStride];
  uint8_t fresh[kMostTokens][2][kDim];  // keys and values of the tile's own tokens
  uint8_t staging[kWarps][kStagingBytes];
  uint32_t probabilities[kSplitGroups][kSplitWarps][2][32];
  float maxima[kSplitGroups][kSplitWarps][kQueries];
  float2 states[kMostSplits][kRows];    // m, l
  float outputs[kMostSplits][kRows][kColumns];
};

__device__ __forceinline__ uint32_t transpose8x8(uint32_t v) {
  uint32_t out;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(v));
  return out;
}
// Bytes of `codes` to the high bytes of two halves, and widened.
template <uint32_t kBytes>
__device__ __forceinline__ uint32_t widen(uint32_t codes) { return Raw<true>::widen_two(__byte_perm(codes, 0, kBytes)); }

template <int kCluster>
__device__ __forceinline__ void barrier_of_all() {
  if constexpr (kCluster > 1) {
    cluster_barrier();
  } else {
    __syncthreads();
  }
}

// A warp's part of a split's keys and values, 16 bytes a lane and register; zeros where the pages hold none.
struct Fetched {
  uint4 k[8], v[8];
  // Of k: keys 16 warp + 2 i + lane / 16. Of v: keys 8 i + lane / 4, channels 64 warp + lane % 4 * 16.
  __device__ static int key_of_k(int i, int warp, int lane) { return warp * 16 + i * 2 + lane / 16; }
  __device__ static int key_of_v(int i, int lane) { return i * 8 + lane / 4; }

  // Keys at `end` and later are not fetched.
  __device__ __forceinline__ void load_k(const Attention& a, int page, int kv_head, int first_key, int end, int warp, int lane) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int key = key_of_k(i, warp, lane);
      k[i] = row(a.k_pages, a.kv_heads, kv_head, page, key, first_key + key < end, lane % 16 * 16);
    }
  }
  __device__ __forceinline__ void load_v(const Attention& a, const int (&pages)[4], int kv_head, int first_key, int end, int warp, int lane) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int key = key_of_v(i, lane);
      v[i] = row(a.v_pages, a.kv_heads, kv_head, pages[i / 2], key, first_key + key < end, warp * 64 + lane % 4 * 16);
    }
  }

 private:
  __device__ static uint4 row(const void* values, int kv_heads, int kv_head, int page, int key, bool there, int at) {
    if (!there || page < 0) return make_uint4(0, 0, 0, 0);
    return *reinterpret_cast<const uint4*>(static_cast<const uint8_t*>(values) + ((int64_t{page} * kv_heads + kv_head) * kPagePositions + key % kPagePositions) * kDim + at);
  }
};

template <int kTokens, int kCluster>
__global__ void __launch_bounds__(kThreads, 2) decode(const __grid_constant__ Attention a, const __grid_constant__ QkvPrepare prepare) {
  extern __shared__ __align__(16) uint8_t shared[];
  using S = Shared<kTokens, kCluster>;
  S& s = *reinterpret_cast<S*>(shared);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, group = warp / kSplitWarps, part = warp % kSplitWarps;
  let_next_kernel_start();
  const int rank = kCluster > 1 ? cluster_rank() : 0, kv_head = blockIdx.y, first_token = blockIdx.z * kTokens;
  const AttentionTile tile = a.pool.tiles[blockIdx.x / kCluster];
  const int tokens = min(kTokens, tile.rows - first_token);
  if (tokens <= 0) return;  // all of a cluster do
  const int position = tile.first_position + first_token, last_key = position + tokens - 1;
  const int first_split = max(0, position - a.window + 1) / kKeyTile, last_split = last_key / kKeyTile;
  const bool prepares = prepare.heads > 0, has_fresh = prepares && prepare.kv_heads > 0;
  const int end = has_fresh ? tile.first_position : last_key + 1;  // of what the pages hold
  uint8_t* const staging = s.staging[warp];

  Fetched fetched;
  const auto pages_of = [&](int split) { return *reinterpret_cast<const int4*>(a.pool.pages + tile.first_page + split * (kKeyTile / kPagePositions)); };
  const auto page_of_k = [&](const int4& pages) { return part == 0 ? pages.x : part == 1 ? pages.y : part == 2 ? pages.z : pages.w; };
  int split = first_split + group * kCluster + rank;
  const auto fetch_k = [&](const int4& pages, int split) { fetched.load_k(a, page_of_k(pages), kv_head, split * kKeyTile, end, part, lane); };
  const auto fetch_v = [&](const int4& pages, int split) {
    const int of[4] = {pages.x, pages.y, pages.z, pages.w};
    fetched.load_v(a, of, kv_head, split * kKeyTile, end, part, lane);
  };
  if (has_fresh && split <= last_split) {
    const int4 pages = pages_of(split);
    fetch_k(pages, split);
    fetch_v(pages, split);
  }
  for (int i = threadIdx.x; i < kQueries * kQueryStride / 2; i += kThreads) reinterpret_cast<uint32_t*>(s.queries)[i] = 0;
  __syncthreads();
  wait_for_earlier_kernels();
  if (!has_fresh && split <= last_split) {
    const int4 pages = pages_of(split);
    fetch_k(pages, split);
    fetch_v(pages, split);
  }

  // Queries, row token * kGroup + head of the group; keys and values of all tokens of the tile that these see.
  const int num_queries = tokens * kGroup, num_fresh = has_fresh ? (first_token + tokens) * 2 : 0;
  for (int job = warp; job < num_queries + num_fresh; job += kWarps) {
    PreparedHead<kDim> head;
    if (job < num_queries) {
      const int row = tile.first_row + first_token + job / kGroup, number = kv_head * kGroup + job % kGroup;
      if (prepares) {
        head.template make<1>(prepare, row, number, lane);
      } else {
#pragma unroll
        for (int j = 0; j < kDim / 32; ++j) head.x[j] = a.q[(int64_t{row} * a.heads + number) * kDim + j * 32 + lane];
      }
#pragma unroll
      for (int j = 0; j < kDim / 32; ++j) s.queries[job][j * 32 + lane] = __float2bfloat16(head.x[j]);
    } else {
      const int token = (job - num_queries) / 2, is_v = (job - num_queries) % 2, row = tile.first_row + token;
      head.template make<1>(prepare, row, prepare.heads + is_v * prepare.kv_heads + kv_head, lane);
      const int slot = prepare.slots[row];
      const bool writes = rank == 0 && token >= first_token && slot >= 0;
      uint8_t* const page = static_cast<uint8_t*>(is_v ? prepare.v_pages : prepare.k_pages) + page_row(max(slot, 0), prepare.kv_heads, kv_head) * kDim;
#pragma unroll
      for (int j = 0; j < kDim / 32; ++j) {
        const uint8_t code = to_e4m3(head.x[j]);
        s.fresh[token][is_v][j * 32 + lane] = code;
        if (writes) page[j * 32 + lane] = code;
      }
    }
  }
  barrier_of_all<kCluster>();  // and all of the cluster are there

  for (; split <= last_split; split += kSplitGroups * kCluster) {
    const int first_key = split * kKeyTile, next = split + kSplitGroups * kCluster;
    const bool more = next <= last_split;
    int4 next_pages{};
    if (more) next_pages = pages_of(next);
    const auto with_fresh = [&](uint4 from_pages, int key, int is_v, int at) {
      const int token = first_key + key - tile.first_position;
      return has_fresh && token >= 0 && token < first_token + tokens ? *reinterpret_cast<const uint4*>(&s.fresh[token][is_v][at]) : from_pages;
    };
#pragma unroll
    for (int i = 0; i < 8; ++i) {  // so that a lane finds channels 2 t, 2 t + 1, 2 t + 8, 2 t + 9 of a k16 in one word
      const uint4 r = with_fresh(fetched.k[i], Fetched::key_of_k(i, part, lane), 0, lane % 16 * 16);
      *reinterpret_cast<uint4*>(staging + (i * 2 + lane / 16) * kKeyStride + lane % 16 * 16) =
          make_uint4(__byte_perm(r.x, r.z, 0x5410), __byte_perm(r.x, r.z, 0x7632), __byte_perm(r.y, r.w, 0x5410), __byte_perm(r.y, r.w, 0x7632));
    }
    __syncwarp();
    if (more) fetch_k(next_pages, next);

    // Scores: of keys g and g + 8 (scores[0..1], scores[2..3]) of this warp's 16 with queries 2 t and 2 t + 1.
    float scores[4] = {};
#pragma unroll
    for (int c = 0; c < kDim; c += 64) {
      uint32_t low[4], high[4], q[2][4];
      load_matrices(low, staging + lane % 8 * kKeyStride + c + lane / 8 * 16);
      load_matrices(high, staging + (8 + lane % 8) * kKeyStride + c + lane / 8 * 16);
      load_matrices(q[0], &s.queries[lane % 8][c + lane / 8 * 8]);
      load_matrices(q[1], &s.queries[lane % 8][c + 32 + lane / 8 * 8]);
#pragma unroll
      for (int k16 = 0; k16 < 4; ++k16) {
        const uint32_t keys[4] = {widen<0x1404>(low[k16]), widen<0x1404>(high[k16]), widen<0x3424>(low[k16]), widen<0x3424>(high[k16])};
        mma_bf16(scores, keys, q[k16 / 2][k16 % 2 * 2], q[k16 / 2][k16 % 2 * 2 + 1]);
      }
    }
    const VisibleKeys visible = visible_keys(a, tile, t < tokens ? first_token + t : tile.rows);
    float m[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (!visible(first_key + part * 16 + g + i / 2 * 8)) scores[i] = -INFINITY;
      m[i % 2] = fmaxf(m[i % 2], scores[i]);
    }
#pragma unroll
    for (int offset = 4; offset < 32; offset *= 2) {
      m[0] = fmaxf(m[0], __shfl_xor_sync(0xffffffffu, m[0], offset));
      m[1] = fmaxf(m[1], __shfl_xor_sync(0xffffffffu, m[1], offset));
    }
    if (g == 0) *reinterpret_cast<float2*>(&s.maxima[group][part][2 * t]) = make_float2(m[0], m[1]);

    // This warp's channels of all values take the place of its keys.
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int key = Fetched::key_of_v(i, lane);
      *reinterpret_cast<uint4*>(staging + key * kValueStride + lane % 4 * 16) = with_fresh(fetched.v[i], key, 1, part * 64 + lane % 4 * 16);
    }
    if (more) fetch_v(next_pages, next);
    named_barrier<kSplitThreads>(1 + group);
#pragma unroll
    for (int w = 0; w < kSplitWarps; ++w) {
      const float2 other = *reinterpret_cast<const float2*>(&s.maxima[group][w][2 * t]);
      m[0] = fmaxf(m[0], other.x);
      m[1] = fmaxf(m[1], other.y);
    }
    const float base[2] = {finite_base(m[0]), finite_base(m[1])};
    // Keys 2 t, 2 t + 1 (and + 8) of this warp's 16, query g.
    s.probabilities[group][part][0][lane] = transpose8x8(pack_bf16(__expf(scores[0] - base[0]), __expf(scores[1] - base[1])));
    s.probabilities[group][part][1][lane] = transpose8x8(pack_bf16(__expf(scores[2] - base[0]), __expf(scores[3] - base[1])));
    named_barrier<kSplitThreads>(1 + group);

    // Channels c * 16 + 2 g (o[c][0..1]) and + 1 (o[c][2..3]) of this warp's 64, queries 2 t and 2 t + 1. The sum of p is one more product, with ones.
    float o[4][4] = {}, l[4] = {};
#pragma unroll
    for (int k = 0; k < kKeyTile / 16; ++k) {
      const uint32_t p[2] = {s.probabilities[group][k][0][lane], s.probabilities[group][k][1][lane]};
      const uint32_t ones[4] = {0x3F803F80u, 0x3F803F80u, 0x3F803F80u, 0x3F803F80u};
      mma_bf16(l, ones, p[0], p[1]);
#pragma unroll
      for (int c = 0; c < 4; c += 2) {
        uint32_t v[4];  // pairs of channels: keys 0..7 and 8..15 of 16 channels, then of the next 16
        load_matrices_transposed(v, staging + (k * 16 + lane / 8 % 2 * 8 + lane % 8) * kValueStride + c * 16 + lane / 16 * 16);
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const uint32_t values[4] = {widen<0x2404>(v[j * 2]), widen<0x3414>(v[j * 2]), widen<0x2404>(v[j * 2 + 1]), widen<0x3414>(v[j * 2 + 1])};
          mma_bf16(o[c + j], values, p[0], p[1]);
        }
      }
    }
    const int place = split - first_split;
    if (t < kTokens) {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const int column = part * 64 + c * 16 + 2 * g;
        float* const to = &s.outputs[place][t * kGroup][column % S::kColumns];
        store_in_cluster<kCluster>(to, column / S::kColumns, o[c][0], o[c][2]);
        store_in_cluster<kCluster>(to + S::kColumns, column / S::kColumns, o[c][1], o[c][3]);
      }
      if (part == 0 && g < kCluster) {
        float* const to = reinterpret_cast<float*>(&s.states[place][t * kGroup]);
        store_in_cluster<kCluster>(to, g, m[0], l[0]);
        store_in_cluster<kCluster>(to + 2, g, m[1], l[1]);
      }
    }
    __syncwarp();
  }
  barrier_of_all<kCluster>();

  for (int i = threadIdx.x; i < tokens * kGroup * S::kColumns; i += kThreads) {
    const int row = i / S::kColumns, column = i % S::kColumns;
    const int at = position + row / kGroup, first = max(0, at - a.window + 1) / kKeyTile, last = at / kKeyTile;
    float highest = -INFINITY;
    for (int i = first; i <= last; ++i) highest = fmaxf(highest, s.states[i - first_split][row].x);
    float sums[4] = {}, lengths[4] = {};
#pragma unroll
    for (int quarter = 0; quarter < 4; ++quarter) {
      for (int run = first / kRunSplits + (quarter - first / kRunSplits % 4 + 4) % 4; run <= last / kRunSplits; run += 4) {
        float run_m = -INFINITY, run_l = 0.0f, run_o = 0.0f;
        for (int i = max(first, run * kRunSplits); i <= min(last, run * kRunSplits + kRunSplits - 1); ++i) {
          const float2 state = s.states[i - first_split][row];
          if (state.x == -INFINITY) continue;
          const Fold fold(run_m, state.x);
          run_l = fold(run_l, state.y);
          run_o = fold(run_o, s.outputs[i - first_split][row][column]);
        }
        const float weight = __expf(run_m - highest);
        lengths[quarter] = __fmaf_rn(run_l, weight, lengths[quarter]);
        sums[quarter] = __fmaf_rn(run_o, weight, sums[quarter]);
      }
    }
    const float sum = ((sums[0] + sums[1]) + sums[2]) + sums[3], length = ((lengths[0] + lengths[1]) + lengths[2]) + lengths[3];
    a.out[(int64_t{tile.first_row + first_token + row / kGroup} * a.heads + kv_head * kGroup + row % kGroup) * kDim + rank * S::kColumns + column] = __float2bfloat16(sum / length);
  }
}

template <int kTokens, int kCluster>
void run_cluster(const Attention& a, const QkvPrepare& prepare, int token_blocks, cudaStream_t stream) {
  constexpr auto kernel = decode<kTokens, kCluster>;
  static const bool ready = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(Shared<kTokens, kCluster>)) == cudaSuccess;
  (void)ready;
  launch_clusters(kernel, kCluster, dim3(a.pool.num_tiles * kCluster, a.kv_heads, token_blocks), dim3(kThreads), sizeof(Shared<kTokens, kCluster>), stream, a, prepare);
}

template <int kTokens>
void run(const Attention& a, const QkvPrepare& prepare, cudaStream_t stream) {
  const int tile_tokens = a.one_row_tiles ? 1 : attention_tile_rows(a.heads, a.kv_heads, false), token_blocks = (tile_tokens + kTokens - 1) / kTokens;
  const int64_t count = int64_t{a.pool.num_tiles} * a.kv_heads * token_blocks;
  if (count * 8 <= kManyClusters) {
    run_cluster<kTokens, 8>(a, prepare, token_blocks, stream);
  } else if (count * 4 <= kManyClusters) {
    run_cluster<kTokens, 4>(a, prepare, token_blocks, stream);
  } else if (count * 2 <= kManyClusters || kTokens > 1) {  // more tokens fit the shared memory of two
    run_cluster<kTokens, 2>(a, prepare, token_blocks, stream);
  } else if constexpr (kTokens == 1) {
    run_cluster<kTokens, 1>(a, prepare, token_blocks, stream);
  }
}
}  // namespace

bool attention_decode_fits(const Attention& a) {
  return a.e4m3 && a.dim == kDim && a.heads == kGroup * a.kv_heads && a.window > 0 && a.window <= (kMostSplits - 2) * kKeyTile && !a.long_tiles && a.last_visible == nullptr;
}

void attention_decode(const Attention& a, const QkvPrepare* prepare, cudaStream_t stream) {
  const QkvPrepare none{};
  a.one_row_tiles ? run<1>(a, prepare ? *prepare : none, stream) : run<4>(a, prepare ? *prepare : none, stream);
}
}  // namespace nibble::cuda
