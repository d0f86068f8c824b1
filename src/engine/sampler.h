// From logits to the next token, in this order, on f32 logits after the model's soft cap:
//
//   1. x -= frequency_penalty * count, x -= presence_penalty            for this request's output tokens; `masked` ids become -inf
//   2. repetition: x < 0 ? x * r : x / r                                 for the same tokens
//   3. suppressed ids become -inf
//   4. ids outside the allowed set (a grammar's) become -inf
//   5. logit_bias is added
//   6. x / temperature; below 1e-6: temperature 1 and top_k 1
//   7. softmax; reported logprobs are taken here
//   8. rank by p, ties to the lower id; keep rank r iff r < top_k, (sum of p before r) <= top_p and p_r >= min_p * p_0. Rank 0 always stays
//   9. draw: u * (kept sum), u from Philox(key = seed, counter = (choice, position)), walking the kept ids in ascending order
//
// A draw is a function of (logits, params, seed, choice, position): the same under any load.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "engine/request.h"
#include "kernels/candidates.h"

namespace nibble {
using OutputCounts = std::unordered_map<int32_t, int32_t>;

struct LogitEdits {
  const SamplingParams* params = nullptr;
  const OutputCounts* output = nullptr;
  std::span<const int32_t> masked;      // end tokens while fewer than min_tokens exist
  std::span<const int32_t> suppressed;  // generation_config's
  const uint32_t* allowed = nullptr;    // a grammar's: one bit per id; nullptr: all
};
// Whether a mask allows any id but these.
bool allows_more_than(std::span<const uint32_t> allowed, std::span<const int32_t> ids);
// Steps 1 to 5, in place.
void edit_logits(std::span<float> logits, const LogitEdits& edits);

// Whether the tokens so far change logits.
inline bool counts_matter(const SamplingParams& p) { return p.frequency_penalty != 0.0f || p.presence_penalty != 0.0f || p.repetition_penalty != 1.0f; }
// How many candidates decide a token; 0: the whole row.
int32_t candidates_wanted(const SamplingParams& params, int32_t top_logprobs);
// Steps 1 to 5 but for `allowed`, as edits of row `row`; one per id.
void append_edits(const LogitEdits& edits, int32_t row, int32_t vocab, std::vector<LogitEdit>& out);

struct Sampled {
  int32_t id = -1;
  float logprob = 0.0f;            // when asked for
  std::vector<TokenLogprob> top;   // best first
};

class Sampler {
 public:
  // Steps 6 to 9 on edited logits, which it may overwrite. top_logprobs as in Request. nullopt: no token is possible (all -inf) or a logit is NaN.
  std::optional<Sampled> sample(std::span<float> logits, const SamplingParams& params, int32_t choice, int32_t position, int32_t top_logprobs);

  // The same from the best candidates of a row and its summary: for greedy requests and for those whose top_k lies within them (see candidates_wanted).
  std::optional<Sampled> sample(std::span<const Candidate> ranked, const RowSummary& row, const SamplingParams& params, int32_t choice, int32_t position, int32_t top_logprobs);

  // ln p of one id and the best `top` ones, from raw logits: what prompt logprobs are made of.
  Sampled score(std::span<const float> logits, int32_t id, int32_t top);

  // Step 8 alone: the kept ids in order of rank with their renormalized probabilities.
  std::vector<std::pair<int32_t, double>> kept(std::span<float> logits, const SamplingParams& params);

 private:
  // Logits over temperature in place; the log of the sum of their exponentials.
  std::optional<double> log_sum(std::span<float> logits, float temperature, float& highest);
  void rank(std::span<const float> logits, size_t count);  // the best `count` of all into candidates_, in order
  bool keep(const SamplingParams& params, double log_sum);  // step 8 on ranked candidates; false: the cut may lie beyond them
  int32_t draw(const SamplingParams& params, float highest, int32_t choice, int32_t position);
  void filter(std::span<const float> logits, const SamplingParams& params, double log_sum);

  std::vector<Candidate> candidates_;
};
}  // namespace nibble
