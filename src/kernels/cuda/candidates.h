// From logits on the device to what the host's sampler needs of them: the largest, and the sum of exponentials.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/candidates.h"

namespace nibble::cuda {
// Bytes of scratch for `rows` rows.
int64_t candidate_scratch_bytes(int rows, int vocab);
// As Backend::candidates. All pointers are the device's; `edits` sorted by row; masks [num_masks, mask_words(vocab)] of the rows `masked`; out [rows, kMaxCandidates].
void find_candidates(float* logits, int rows, int vocab, const float* temperatures, const LogitEdit* edits, int num_edits, const int32_t* masked, const uint32_t* masks, int num_masks, int count,
                     void* scratch, Candidate* out, RowSummary* summaries, cudaStream_t stream);
}  // namespace nibble::cuda
