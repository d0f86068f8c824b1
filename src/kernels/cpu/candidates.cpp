#include "kernels/candidates.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

namespace nibble::cpu {
void find_candidates(const Tensor& logits, std::span<const LogitEdit> edits, const AllowedIds& allowed, std::span<const float> temperatures, int32_t count, Candidate* candidates, RowSummary* summaries) {
  const int64_t vocab = logits.cols();
  for (const LogitEdit& e : edits) {
    float& x = logits.as<float>()[e.row * vocab + e.id];
    float v = x - e.subtract;
    v = v < 0.0f ? v * e.repetition : v / e.repetition;
    x = v + e.bias;
  }
  for (size_t i = 0; i < allowed.rows.size(); ++i) {
    const uint32_t* bits = allowed.bits.data() + static_cast<int64_t>(i) * mask_words(vocab);
    float* x = logits.as<float>() + allowed.rows[i] * vocab;
    for (int64_t id = 0; id < vocab; ++id) {
      if (!(bits[id / 32] >> (id % 32) & 1)) x[id] = -std::numeric_limits<float>::infinity();
    }
  }
  std::vector<int32_t> ids(static_cast<size_t>(vocab));
  for (int64_t row = 0; row < logits.rows(); ++row) {
    const float* x = logits.as<float>() + row * vocab;
    const float temperature = temperatures[static_cast<size_t>(row)];
    std::iota(ids.begin(), ids.end(), 0);
    std::partial_sort(ids.begin(), ids.begin() + std::min<int64_t>(count, vocab), ids.end(), [&](int32_t a, int32_t b) { return x[a] != x[b] ? x[a] > x[b] : a < b; });
    for (int32_t i = 0; i < std::min<int64_t>(count, vocab); ++i) candidates[row * kMaxCandidates + i] = {x[ids[static_cast<size_t>(i)]] / temperature, ids[static_cast<size_t>(i)]};
    RowSummary& summary = summaries[row] = {x[ids[0]] / temperature, 0.0f};
    for (int64_t i = 0; i < vocab; ++i) {
      if (x[i] != x[i]) summary.highest = x[i];
      summary.sum += std::exp(x[i] / temperature - summary.highest);
    }
  }
}
}  // namespace nibble::cpu
