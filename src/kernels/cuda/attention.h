// Attention on the device over pages k, v [pages, kv_heads, kPageTokens, head_dim] (bf16 or e4m3; one layout for both, unlike on the CPU).
//
// The canonical sum, so that a row's bits depend on its own context alone. Keys are cut by absolute position into splits, these into tiles of 64, and
// kRunSplits neighbouring splits make a run. A split starts anew: per tile m' = max(m, max s), l' = l e^(m - m') + sum p, o' = o e^(m - m') + p v, with
// p = e^(s - m') rounded to bf16. A run folds its splits first to last: M' = max(M, m), L' = L e^(M - M') + l e^(m - M'), O' likewise. The runs are joined
// against their common maximum, in four interleaved sums over the run's number that are added last; out = O / L.
//
// With few tiles a block attends to one split, so that the device is full, and the join folds; with many it attends to a whole run and folds in registers.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/step_tables.h"

namespace nibble::cuda {
inline constexpr int kPagePositions = 16, kKeyTile = 64, kRunSplits = 8;
constexpr int split_keys(int window) { return window > 0 ? 64 : 128; }

struct QkvPrepare {
  float *q, *k, *v;               // [slices, rows, heads * dim]; q's slice 0 takes the result; v == k: V is made from k
  int slices;
  int64_t q_stride, k_stride, v_stride;  // between slices
  const __nv_bfloat16 *q_norm, *k_norm;
  const float *cos, *sin;         // [rows, pairs]
  void *k_pages, *v_pages;
  const int32_t* slots;           // [rows]
  int rows, heads, kv_heads, dim, pairs;
  bool e4m3;
  float eps;
};
void qkv_prepare(const QkvPrepare& args, cudaStream_t stream);

struct Attention {
  const float* q;                 // [rows, heads, dim]
  const void *k_pages, *v_pages;
  __nv_bfloat16* out;             // [rows, heads * dim]
  const int32_t* positions;       // [rows]
  const int32_t* last_visible;    // [rows] the last position that a row sees; nullptr: its own
  PoolTables pool;
  float* partial;                 // scratch of `partial_bytes`
  int64_t partial_bytes;
  int rows, heads, kv_heads, dim, window;
  bool e4m3;
  bool one_row_tiles;             // no tile has more than one row
  bool long_tiles;                // tiles of 32 rows x heads instead of 16
};
// Rows that one tile takes.
int attention_tile_rows(int heads, int kv_heads, bool long_tiles);
// Splits that a tile overlaps whose first row stands at `first` and whose rows see no further than `last`.
int attention_splits(int first, int last, int window);
bool attention_supports(int heads, int kv_heads, int dim);
void attention(const Attention& args, cudaStream_t stream);
// attention_decode.cu: the same in one launch, for few rows a sequence on sliding layers.
bool attention_decode_fits(const Attention& args);
// What `prepare` asks for is done on the way, with one slice and for these rows alone: args.q is not read then. nullptr: it was done before.
void attention_decode(const Attention& args, const QkvPrepare* prepare, cudaStream_t stream);
}  // namespace nibble::cuda
