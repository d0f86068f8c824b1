// Few rows of many sequences on sliding layers with E4M3 pages, which is what most of a large decode step attends to: a block takes all splits of up to kTokens tokens and one
// key/value head, each of its warps whole splits of 64 keys on its own, and folds and joins them itself, so that nothing goes through memory.
//
// The products are turned round, keys and channels as the 16 rows of m16n8k16 and queries as its 8 columns: little is wasted, and probabilities move from one
// product to the next by movmatrix. The sums are attention.h's, to the bit.
// Bound by instructions (some 2,600 a split) and by the latency of a warp's split, about 12 us: few sequences are faster with a block a split (attention.cu).
// One H200, NVFP4 12B at context 544, a step: 32 sequences 8.61 -> 7.70 ms, but 1 sequence 4.21 -> 5.07.
#include <algorithm>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_sum.cuh"
#include "kernels/cuda/launch.cuh"

namespace nibble::cuda {
namespace {
constexpr int kManyTiles = 128;  // times key/value heads
constexpr int kDim = 256, kGroup = 2, kWarps = 8, kThreads = kWarps * 32, kMostSplits = 18, kQueries = 8;
constexpr int kKeyStride = kDim + 16, kQueryStride = kDim + 8;  // bytes; bf16: 16 bytes from row to row keep banks apart
constexpr int kStagingBytes = 16 * kKeyStride;                  // of a warp: 16 keys or values

template <int kTokens>
constexpr int shared_bytes() {
  return kQueries * kQueryStride * 2 + kWarps * kStagingBytes + kMostSplits * kTokens * kGroup * (kDim + 2) * 4;
}

__device__ __forceinline__ uint32_t transpose8x8(uint32_t v) {
  uint32_t out;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(v));
  return out;
}
// Bytes of `codes` to the high bytes of two halves, and widened.
template <uint32_t kBytes>
__device__ __forceinline__ uint32_t widen(uint32_t codes) { return Raw<true>::widen_two(__byte_perm(codes, 0, kBytes)); }

// 16 positions of a page; zeros where there is none and beyond `last`.
__device__ __forceinline__ void load_rows(uint4 (&rows)[8], const void* pages, int page, int kv_heads, int kv_head, int first_key, int last, int lane) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int key = i * 2 + lane / 16;
    rows[i] = make_uint4(0, 0, 0, 0);
    if (page >= 0 && first_key + key <= last) {
      rows[i] = *reinterpret_cast<const uint4*>(static_cast<const uint8_t*>(pages) + ((int64_t{page} * kv_heads + kv_head) * kPagePositions + key) * kDim + lane % 16 * 16);
    }
  }
}

template <int kTokens>
__global__ void __launch_bounds__(kThreads, kTokens == 1 ? 2 : 1) decode(const __grid_constant__ Attention a) {
  extern __shared__ __align__(16) uint8_t shared[];
  constexpr int kRows = kTokens * kGroup;
  auto* const queries = reinterpret_cast<__nv_bfloat16*>(shared);
  uint8_t* const staging = shared + kQueries * kQueryStride * 2 + threadIdx.x / 32 * kStagingBytes;
  auto* const outputs = reinterpret_cast<float*>(shared + kQueries * kQueryStride * 2 + kWarps * kStagingBytes);  // [splits][kRows][kDim]
  auto* const states = reinterpret_cast<float2*>(outputs + kMostSplits * kRows * kDim);                           // [splits][kRows]: m, l
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  let_next_kernel_start();
  const AttentionTile tile = a.pool.tiles[blockIdx.x];
  const int kv_head = blockIdx.y, first_token = blockIdx.z * kTokens, tokens = min(kTokens, tile.rows - first_token);
  if (tokens <= 0) return;
  const int position = tile.first_position + first_token, last_key = position + tokens - 1;
  const int first_split = max(0, position - a.window + 1) / kKeyTile, last_split = last_key / kKeyTile;
  wait_for_earlier_kernels();

  {  // Row token * kGroup + head of the group.
    const int row = threadIdx.x / 32, column = threadIdx.x % 32 * 8;
    uint4 v = make_uint4(0, 0, 0, 0);
    if (row < tokens * kGroup) {
      const float4* from = reinterpret_cast<const float4*>(a.q + (int64_t{tile.first_row + first_token + row / kGroup} * a.heads + kv_head * kGroup + row % kGroup) * kDim + column);
      const float4 x = from[0], y = from[1];
      v = make_uint4(pack_bf16(x.x, x.y), pack_bf16(x.z, x.w), pack_bf16(y.x, y.y), pack_bf16(y.z, y.w));
    }
    *reinterpret_cast<uint4*>(queries + row * kQueryStride + column) = v;
  }
  __syncthreads();

  for (int split = first_split + warp; split <= last_split; split += kWarps) {
    const int first_key = split * kKeyTile;
    const int4 table = *reinterpret_cast<const int4*>(a.pool.pages + tile.first_page + first_key / kPagePositions);
    const int pages[4] = {table.x, table.y, table.z, table.w};
    uint4 rows[8];
    load_rows(rows, a.k_pages, pages[0], a.kv_heads, kv_head, first_key, last_key, lane);

    // Scores: of keys k * 16 + g and + 8 (s[k][0..1], s[k][2..3]) with queries 2 t and 2 t + 1.
    float s[4][4];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      __syncwarp();
#pragma unroll
      for (int i = 0; i < 8; ++i) {  // so that a lane finds channels 2 t, 2 t + 1, 2 t + 8, 2 t + 9 of a k16 in one word
        const uint4 r = rows[i];
        *reinterpret_cast<uint4*>(staging + (i * 2 + lane / 16) * kKeyStride + lane % 16 * 16) =
            make_uint4(__byte_perm(r.x, r.z, 0x5410), __byte_perm(r.x, r.z, 0x7632), __byte_perm(r.y, r.w, 0x5410), __byte_perm(r.y, r.w, 0x7632));
      }
      __syncwarp();
      if (k < 3) {
        load_rows(rows, a.k_pages, pages[k + 1], a.kv_heads, kv_head, first_key + (k + 1) * 16, last_key, lane);
      } else {
        load_rows(rows, a.v_pages, pages[0], a.kv_heads, kv_head, first_key, last_key, lane);
      }
      s[k][0] = s[k][1] = s[k][2] = s[k][3] = 0.0f;
#pragma unroll
      for (int c = 0; c < kDim; c += 64) {
        uint32_t low[4], high[4], q[2][4];
        load_matrices(low, staging + lane % 8 * kKeyStride + c + lane / 8 * 16);
        load_matrices(high, staging + (8 + lane % 8) * kKeyStride + c + lane / 8 * 16);
        load_matrices(q[0], queries + lane % 8 * kQueryStride + c + lane / 8 * 8);
        load_matrices(q[1], queries + lane % 8 * kQueryStride + c + 32 + lane / 8 * 8);
#pragma unroll
        for (int k16 = 0; k16 < 4; ++k16) {
          const uint32_t keys[4] = {widen<0x1404>(low[k16]), widen<0x1404>(high[k16]), widen<0x3424>(low[k16]), widen<0x3424>(high[k16])};
          mma_bf16(s[k], keys, q[k16 / 2][k16 % 2 * 2], q[k16 / 2][k16 % 2 * 2 + 1]);
        }
      }
    }

    const VisibleKeys visible = visible_keys(a, tile, t < tokens ? first_token + t : tile.rows);
    float m[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int k = 0; k < 4; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (!visible(first_key + k * 16 + g + i / 2 * 8)) s[k][i] = -INFINITY;
        m[i % 2] = fmaxf(m[i % 2], s[k][i]);
      }
    }
#pragma unroll
    for (int offset = 4; offset < 32; offset *= 2) {
      m[0] = fmaxf(m[0], __shfl_xor_sync(0xffffffffu, m[0], offset));
      m[1] = fmaxf(m[1], __shfl_xor_sync(0xffffffffu, m[1], offset));
    }
    const float base[2] = {finite_base(m[0]), finite_base(m[1])};
    uint32_t p[4][2];  // keys 2 t, 2 t + 1 (and + 8) of k16 k, query g
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      p[k][0] = transpose8x8(pack_bf16(__expf(s[k][0] - base[0]), __expf(s[k][1] - base[1])));
      p[k][1] = transpose8x8(pack_bf16(__expf(s[k][2] - base[0]), __expf(s[k][3] - base[1])));
    }

    // Channels c * 16 + 2 g (o[c][0..1]) and + 1 (o[c][2..3]) of queries 2 t and 2 t + 1. The sum of p is one more product, with ones.
    float o[kDim / 16][4] = {}, l[4] = {};
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      __syncwarp();
#pragma unroll
      for (int i = 0; i < 8; ++i) *reinterpret_cast<uint4*>(staging + (i * 2 + lane / 16) * kKeyStride + lane % 16 * 16) = rows[i];
      __syncwarp();
      if (k < 3) load_rows(rows, a.v_pages, pages[k + 1], a.kv_heads, kv_head, first_key + (k + 1) * 16, last_key, lane);
      const uint32_t ones[4] = {0x3F803F80u, 0x3F803F80u, 0x3F803F80u, 0x3F803F80u};
      mma_bf16(l, ones, p[k][0], p[k][1]);
#pragma unroll
      for (int c = 0; c < kDim / 16; c += 2) {
        uint32_t v[4];  // pairs of channels: keys 0..7 and 8..15 of 16 channels, then of the next 16
        load_matrices_transposed(v, staging + (lane / 8 % 2 * 8 + lane % 8) * kKeyStride + c * 16 + lane / 16 * 16);
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const uint32_t values[4] = {widen<0x2404>(v[j * 2]), widen<0x3414>(v[j * 2]), widen<0x2404>(v[j * 2 + 1]), widen<0x3414>(v[j * 2 + 1])};
          mma_bf16(o[c + j], values, p[k][0], p[k][1]);
        }
      }
    }
    if (t < kTokens) {
      float* const to = outputs + ((split - first_split) * kRows + t * kGroup) * kDim + 2 * g;
#pragma unroll
      for (int c = 0; c < kDim / 16; ++c) {
        *reinterpret_cast<float2*>(to + c * 16) = make_float2(o[c][0], o[c][2]);
        *reinterpret_cast<float2*>(to + kDim + c * 16) = make_float2(o[c][1], o[c][3]);
      }
      if (g == 0) {
        states[(split - first_split) * kRows + t * kGroup] = make_float2(m[0], l[0]);
        states[(split - first_split) * kRows + t * kGroup + 1] = make_float2(m[1], l[1]);
      }
    }
  }
  __syncthreads();

  const int column = threadIdx.x;
  for (int row = 0; row < tokens * kGroup; ++row) {
    const int at = position + row / kGroup, first = max(0, at - a.window + 1) / kKeyTile, last = at / kKeyTile;
    float highest = -INFINITY;
    for (int i = first; i <= last; ++i) highest = fmaxf(highest, states[(i - first_split) * kRows + row].x);
    float sums[4] = {}, lengths[4] = {};
#pragma unroll
    for (int part = 0; part < 4; ++part) {
      for (int run = first / kRunSplits + (part - first / kRunSplits % 4 + 4) % 4; run <= last / kRunSplits; run += 4) {
        float run_m = -INFINITY, run_l = 0.0f, run_o = 0.0f;
        for (int i = max(first, run * kRunSplits); i <= min(last, run * kRunSplits + kRunSplits - 1); ++i) {
          const float2 state = states[(i - first_split) * kRows + row];
          if (state.x == -INFINITY) continue;
          const Fold fold(run_m, state.x);
          run_l = fold(run_l, state.y);
          run_o = fold(run_o, outputs[((i - first_split) * kRows + row) * kDim + column]);
        }
        const float weight = __expf(run_m - highest);
        lengths[part] = __fmaf_rn(run_l, weight, lengths[part]);
        sums[part] = __fmaf_rn(run_o, weight, sums[part]);
      }
    }
    const float sum = ((sums[0] + sums[1]) + sums[2]) + sums[3], length = ((lengths[0] + lengths[1]) + lengths[2]) + lengths[3];
    a.out[(int64_t{tile.first_row + first_token + row / kGroup} * a.heads + kv_head * kGroup + row % kGroup) * kDim + column] = __float2bfloat16(sum / length);
  }
}

template <int kTokens>
void run(const Attention& a, cudaStream_t stream) {
  static const bool ready = cudaFuncSetAttribute(decode<kTokens>, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes<kTokens>()) == cudaSuccess;
  (void)ready;
  const int tile_tokens = a.one_row_tiles ? 1 : attention_tile_rows(a.heads, a.kv_heads, false);
  launch(decode<kTokens>, dim3(a.pool.num_tiles, a.kv_heads, (tile_tokens + kTokens - 1) / kTokens), dim3(kThreads), shared_bytes<kTokens>(), stream, a);
}
}  // namespace

bool attention_decode_fits(const Attention& a) {
  return a.e4m3 && a.dim == kDim && a.heads == kGroup * a.kv_heads && a.window > 0 && a.window <= (kMostSplits - 2) * kKeyTile && !a.long_tiles && a.last_visible == nullptr &&
         a.pool.num_tiles * a.kv_heads >= kManyTiles;
}

void attention_decode(const Attention& a, cudaStream_t stream) { a.one_row_tiles ? run<1>(a, stream) : run<4>(a, stream); }
}  // namespace nibble::cuda
