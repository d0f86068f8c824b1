// From logits on the device to what the host's sampler needs of them: the largest, and the sum of exponentials.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/candidates.h"

namespace nibble::cuda {
// Bytes of scratch for `rows` rows.
int64_t candidate_scratch_bytes(int rows, int vocab);
// As Backend::candidates. All pointers are the device's; `edits` sorted by row; out [rows, kMaxCandidates].
void find_candidates(float* logits, int rows, int vocab, const float* temperatures, const LogitEdit* edits, int num_edits, int count, void* scratch, Candidate* out, RowSummary* summaries,
                     cudaStream_t stream);
}  // namespace nibble::cuda
