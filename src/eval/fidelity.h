// How far a candidate's logits are from a reference's, teacher-forced, position by position. p = softmax(reference), q = softmax(candidate), natural logarithms,
// sums in f64.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <vector>

namespace nibble {
class Fidelity {
 public:
  explicit Fidelity(int32_t vocab_size) : vocab_size_(vocab_size) {}

  // Position i of a document: both models' logits [vocab_size] after its first i + 1 tokens, and the token that follows (-1: none).
  void add(std::span<const float> reference, std::span<const float> candidate, int32_t next);
  void end_document();  // standard errors of ratios go by documents

  // kld_mean, kld percentiles, top1_agreement, top5_recall, ppl_ref, ppl, ppl_ratio, dp_mean, dp_rms (percentage points), with standard errors.
  nlohmann::ordered_json report() const;

 private:
  struct Document {
    double kld = 0, top1 = 0, ln_reference = 0, ln_candidate = 0;
    int64_t positions = 0, tokens = 0;
  };
  int32_t vocab_size_;
  std::vector<double> klds_;
  std::vector<Document> documents_{1};
  double top5_ = 0, dp_ = 0, dp_squares_ = 0;
};
}  // namespace nibble
