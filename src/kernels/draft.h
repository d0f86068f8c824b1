// Ops that a draft step needs beside those of the model itself (model/assistant.h has the whole step).
#pragma once

#include <cstdint>
#include <span>

#include "kernels/attention.h"

namespace nibble {
// out[i] = (table[id_i] * scale, hidden[row_i]): the embedding of a token beside a hidden state. The embedding is rounded to bf16 where round_to_bf16, as in
// EmbedArgs; all of out is rounded to its own dtype.
struct DraftInputArgs {
  std::span<const int32_t> ids;          // [rows]; empty: those in `chosen`
  Tensor chosen;                         // [rows] i32 in the backend's memory
  Tensor table;                          // [vocab, hidden] bf16
  float scale = 1.0f;
  bool round_to_bf16 = true;
  Tensor hidden;                         // [n, hidden] bf16 or f32
  std::span<const int32_t> hidden_rows;  // [rows]; empty: row i of hidden belongs to row i of out
  Tensor out;                            // [rows, 2 * hidden] bf16 or f32
};

// q = rope(rms(q, q_norm)), for layers that have no K and V of their own.
struct QueryPrepareArgs {
  Tensor q;       // [rows, heads, head_dim] f32, changed in place
  Tensor q_norm;  // [head_dim] bf16
  RotaryTable rotary;
  float eps = 1e-6f;
};

void validate(const DraftInputArgs& args);
void validate(const QueryPrepareArgs& args);

class ThreadPool;
namespace cpu {
void draft_input(const DraftInputArgs& args);
void query_prepare(const QueryPrepareArgs& args, ThreadPool& threads);
// ids[i] = the smallest id with the largest of logits[i]; logits [rows, vocab] f32, ids [rows] i32.
void argmax(const Tensor& logits, const Tensor& ids, ThreadPool& threads);
}  // namespace cpu
}  // namespace nibble
