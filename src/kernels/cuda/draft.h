// What a round of drafts needs beside the ops of the model (kernels/draft.h).
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

namespace nibble::cuda {
struct DraftInput {
  const int32_t* ids;            // [rows]
  const __nv_bfloat16* table;    // [vocab, width]
  float scale;
  const void* hidden;            // [n, width] bf16, or f32 where hidden_is_f32
  bool hidden_is_f32;
  const int32_t* hidden_rows;    // [rows]; nullptr: row by row
  __nv_bfloat16* out;            // [rows, 2 * width]
  int rows, width;               // width: a multiple of 4
};
void draft_input(const DraftInput& args, cudaStream_t stream);

// ids[row] = the smallest id with the largest logit. Scratch: argmax_scratch_bytes() for the most rows that any call has, zeroed once; each call leaves its
// counters so.
int64_t argmax_scratch_bytes(int max_rows, int vocab);
void argmax(const float* logits, int rows, int vocab, void* scratch, int max_rows, int32_t* ids, cudaStream_t stream);
}  // namespace nibble::cuda
