// What a sampler needs of a row of logits without looking at all of it: its largest values and the normalizer of its softmax.
#pragma once

#include <cstdint>
#include <span>

#include "base/tensor.h"

namespace nibble {
inline constexpr int kMaxCandidates = 64;

// One change of one logit: x = (x - subtract), then over repetition (x < 0: times) it, then x + bias. bias -inf forbids the id.
struct LogitEdit {
  int32_t row, id;
  float subtract = 0.0f, repetition = 1.0f, bias = 0.0f;
};
// Rows of which only some ids may be chosen, as a grammar says: bit id % 32 of word id / 32. The logits of the other ids become -inf, after the edits.
struct AllowedIds {
  std::span<const int32_t> rows;   // ascending; rows that are not here allow all ids
  std::span<const uint32_t> bits;  // [rows.size(), mask_words(vocab)]
};
constexpr int64_t mask_words(int64_t vocab) { return (vocab + 31) / 32; }
struct Candidate {
  float x;      // the edited logit over the row's temperature
  int32_t id;
};
// Of the edited logits over the temperature.
struct RowSummary {
  float highest;  // NaN when a logit is NaN
  float sum;      // of exp(x - highest)
};

namespace cpu {
void find_candidates(const Tensor& logits, std::span<const LogitEdit> edits, const AllowedIds& allowed, std::span<const float> temperatures, int32_t count, Candidate* candidates, RowSummary* summaries);
}
}  // namespace nibble
