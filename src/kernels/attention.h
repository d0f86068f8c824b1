// Attention over paged K and V, and what goes before it: norms, rotation, and the write into the pages.
//
// Pages. A page holds kPageTokens positions of one sequence, for all key/value heads of one layer, in the cache's dtype with scale 1:
//   k  [pages, kv_heads, head_dim, kPageTokens]   lanes are positions, so that sixteen scores are formed at once
//   v  [pages, kv_heads, kPageTokens, head_dim]   lanes are channels
// (on a CUDA device k lies as v does; only attention and qkv_prepare look into pages)
//
// Visibility. A query at position q sees the keys k <= q, on sliding layers only k > q - window: the window counts the query itself. Rows of an image may
// see ahead to the end of the image (last_visible); those keys are rows of the same step.
//
// Same bits. Attention reads what the pages hold, rounded, also for rows of the same step. It walks pages by absolute position, so a row's sums do not
// depend on how the prompt was cut or on the other rows.
#pragma once

#include <cstdint>
#include <span>

#include "base/tensor.h"

namespace nibble {
inline constexpr int32_t kPageTokens = 16;

// Rows [first_row, first_row + num_rows) stand at positions first_position, ...; page i of `pages` holds positions from i * kPageTokens.
struct PagedRows {
  int32_t first_row = 0;
  int32_t num_rows = 0;
  int32_t first_position = 0;
  std::span<const int32_t> pages;
};

// cos and sin of every rotated pair at every position of the step's rows, made once a step and layer kind.
struct RotaryTable {
  Tensor cos, sin;  // [rows, rotated_pairs] f32
};

// Fills a table: the angle of pair p at position n is n * frequencies[p].
struct RotaryArgs {
  std::span<const float> frequencies;      // [rotated_pairs]
  std::span<const PagedRows> sequences;
  RotaryTable table;
};

// q = rope(rms(q, q_norm)); k' = rope(rms(k, k_norm)) and v' = rms(v) go into the pages.
// RoPE turns pairs (p, p + head_dim / 2) for p < rotated_pairs; the other pairs pass.
struct QkvPrepareArgs {
  Tensor q;                // [rows, heads, head_dim] f32, changed in place
  Tensor k;                // [rows, kv_heads, head_dim] f32
  Tensor v;                // [rows, kv_heads, head_dim] f32; may be k itself: V is then made from the same projection
  Tensor q_norm, k_norm;   // [head_dim] bf16
  RotaryTable rotary;
  Tensor k_pages, v_pages; // f32, bf16 or e4m3
  std::span<const PagedRows> sequences;
  float eps = 1e-6f;
};

// out[t, h] = sum_s softmax_s(q[t, h] . k[s, h / group]) v[s, h / group]; the scale of the scores is 1. f32 throughout.
struct AttentionArgs {
  Tensor q;                 // [rows, heads, head_dim] f32
  Tensor k_pages, v_pages;
  Tensor out;               // [rows, heads * head_dim] bf16 or f32
  std::span<const PagedRows> sequences;
  int32_t window = 0;       // 0: all earlier positions
  std::span<const int32_t> last_visible;  // [rows] the last position that a row sees, its own or a later one of its slice; empty: its own
};

void validate(const QkvPrepareArgs& args);
void validate(const AttentionArgs& args);

class ThreadPool;
namespace cpu {
void rotary(const RotaryArgs& args);
void qkv_prepare(const QkvPrepareArgs& args, ThreadPool& threads);
void attention_plain(const AttentionArgs& args);
}  // namespace cpu
}  // namespace nibble
