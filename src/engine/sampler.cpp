#include "engine/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <set>

#include "base/rng.h"

namespace nibble {
namespace {
constexpr float kGreedyBelow = 1e-6f;
constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
}  // namespace

bool allows_more_than(std::span<const uint32_t> allowed, std::span<const int32_t> ids) {
  int64_t count = 0;
  for (const uint32_t word : allowed) count += std::popcount(word);
  const std::set<int32_t> distinct(ids.begin(), ids.end());
  for (const int32_t id : distinct) {
    const auto word = static_cast<size_t>(id / 32);
    if (id >= 0 && word < allowed.size()) count -= allowed[word] >> (id % 32) & 1;
  }
  return count > 0;
}

void edit_logits(std::span<float> logits, const LogitEdits& edits) {
  const SamplingParams& p = *edits.params;
  const auto size = static_cast<int32_t>(logits.size());
  const auto forbid = [&](int32_t id) {
    if (id >= 0 && id < size) logits[static_cast<size_t>(id)] = kMinusInfinity;
  };
  if (edits.output && counts_matter(p)) {
    for (const auto& [id, count] : *edits.output) {
      float& x = logits[static_cast<size_t>(id)];
      x -= p.frequency_penalty * static_cast<float>(count);
      x -= p.presence_penalty;
      x = x < 0.0f ? x * p.repetition_penalty : x / p.repetition_penalty;
    }
  }
  for (const int32_t id : edits.masked) forbid(id);
  for (const int32_t id : edits.suppressed) forbid(id);
  if (edits.allowed) {
    for (int32_t id = 0; id < size; ++id) {
      if (!(edits.allowed[id / 32] >> (id % 32) & 1)) logits[static_cast<size_t>(id)] = kMinusInfinity;
    }
  }
  for (const auto& [id, bias] : p.logit_bias) {
    if (id >= 0 && id < size) logits[static_cast<size_t>(id)] += bias;
  }
}

std::optional<double> Sampler::log_sum(std::span<float> logits, float temperature, float& highest) {
  if (temperature != 1.0f) {
    for (float& x : logits) x /= temperature;
  }
  highest = kMinusInfinity;
  bool nan = false;
  for (const float x : logits) {
    highest = std::max(highest, x);
    nan |= x != x;
  }
  if (nan || !std::isfinite(highest)) return std::nullopt;
  // Blocks of 1024: the sum of a block in f32 lanes, blocks in f64.
  double total = 0.0;
  for (size_t begin = 0; begin < logits.size(); begin += 1024) {
    float block = 0.0f;
    for (size_t i = begin; i < std::min(logits.size(), begin + 1024); ++i) block += std::exp(logits[i] - highest);
    total += block;
  }
  return std::log(total) + highest;
}

void Sampler::rank(std::span<const float> logits, size_t count) {
  const auto better = [](const Candidate& a, const Candidate& b) { return a.x != b.x ? a.x > b.x : a.id < b.id; };
  candidates_.clear();
  const size_t size = logits.size();
  count = std::min(count, size);
  if (count * 8 >= size) {
    for (size_t id = 0; id < size; ++id) candidates_.push_back({logits[id], static_cast<int32_t>(id)});
    std::partial_sort(candidates_.begin(), candidates_.begin() + static_cast<int64_t>(count), candidates_.end(), better);
  } else {
    // A heap of the best so far, worst on top: most logits fail one comparison.
    for (size_t id = 0; id < size; ++id) {
      const Candidate c{logits[id], static_cast<int32_t>(id)};
      if (candidates_.size() < count) {
        candidates_.push_back(c);
        std::push_heap(candidates_.begin(), candidates_.end(), better);
      } else if (c.x > candidates_.front().x) {  // an equal one has a higher id
        std::pop_heap(candidates_.begin(), candidates_.end(), better);
        candidates_.back() = c;
        std::push_heap(candidates_.begin(), candidates_.end(), better);
      }
    }
    std::sort_heap(candidates_.begin(), candidates_.end(), better);
  }
  candidates_.resize(count);
}

void Sampler::filter(std::span<const float> logits, const SamplingParams& params, double log_sum) {
  const bool greedy = params.temperature < kGreedyBelow;
  const size_t top_k = greedy ? 1 : params.top_k > 0 ? static_cast<size_t>(params.top_k) : logits.size();
  // Without top_k the nucleus is usually small: look at more candidates only when it is not.
  for (size_t count = std::min<size_t>(top_k, 1024);; count = std::min(top_k, count * 16)) {
    rank(logits, count);
    if (keep(params, log_sum) || count >= std::min(top_k, logits.size())) return;
  }
}

bool Sampler::keep(const SamplingParams& params, double log_sum) {
  double before = 0.0;
  size_t kept = 0;
  const double p0 = std::exp(candidates_[0].x - log_sum);
  while (kept < candidates_.size()) {
    const double p = std::exp(candidates_[kept].x - log_sum);
    // The sum before a rank is a rounding error above 1 at times: a top_p of 1 keeps every rank.
    const bool outside = params.top_p < 1.0f && before > params.top_p;
    if (kept > 0 && (outside || p < params.min_p * p0 || p == 0.0)) break;
    before += p;
    ++kept;
  }
  const bool cut = kept < candidates_.size();
  candidates_.resize(kept);
  return cut;
}

int32_t Sampler::draw(const SamplingParams& params, float highest, int32_t choice, int32_t position) {
  const PhiloxCounter random = philox4x32({static_cast<uint32_t>(choice), static_cast<uint32_t>(position), 0, 0}, params.seed);
  const double u = uniform_double(random[0], random[1]);
  std::sort(candidates_.begin(), candidates_.end(), [](const Candidate& a, const Candidate& b) { return a.id < b.id; });
  double sum = 0.0, walked = 0.0;
  for (const Candidate& c : candidates_) sum += std::exp(c.x - highest);
  for (const Candidate& c : candidates_) {
    walked += std::exp(c.x - highest);
    if (walked > u * sum) return c.id;
  }
  return candidates_.back().id;
}

int32_t candidates_wanted(const SamplingParams& params, int32_t top_logprobs) {
  const int32_t ranked = params.temperature < kGreedyBelow ? 1 : params.top_k;
  const int32_t wanted = std::max(ranked, top_logprobs);
  return ranked > 0 && wanted <= kMaxCandidates ? wanted : 0;
}

void append_edits(const LogitEdits& edits, int32_t row, int32_t vocab, std::vector<LogitEdit>& out) {
  const SamplingParams& p = *edits.params;
  std::unordered_map<int32_t, LogitEdit> by_id;
  const auto edit = [&](int32_t id) -> LogitEdit& { return by_id.try_emplace(id, LogitEdit{.row = row, .id = id}).first->second; };
  if (edits.output && counts_matter(p)) {
    for (const auto& [id, count] : *edits.output) {
      edit(id).subtract = p.frequency_penalty * static_cast<float>(count) + p.presence_penalty;
      edit(id).repetition = p.repetition_penalty;
    }
  }
  for (const auto& [id, bias] : p.logit_bias) {
    if (id >= 0 && id < vocab) edit(id).bias += bias;
  }
  for (const auto ids : {edits.masked, edits.suppressed}) {
    for (const int32_t id : ids) {
      if (id >= 0 && id < vocab) edit(id).bias = kMinusInfinity;
    }
  }
  for (const auto& [id, e] : by_id) out.push_back(e);
}

std::vector<std::pair<int32_t, double>> Sampler::kept(std::span<float> logits, const SamplingParams& params) {
  float highest;
  const auto total = log_sum(logits, params.temperature < kGreedyBelow ? 1.0f : params.temperature, highest);
  std::vector<std::pair<int32_t, double>> out;
  if (!total) return out;
  filter(logits, params, *total);
  double sum = 0.0;
  for (const Candidate& c : candidates_) sum += std::exp(c.x - *total);
  for (const Candidate& c : candidates_) out.emplace_back(c.id, std::exp(c.x - *total) / sum);
  return out;
}

std::optional<Sampled> Sampler::sample(std::span<float> logits, const SamplingParams& params, int32_t choice, int32_t position, int32_t top_logprobs) {
  const bool greedy = params.temperature < kGreedyBelow;
  if (greedy && top_logprobs < 0) {
    size_t best = 0;
    bool nan = false;
    for (size_t id = 0; id < logits.size(); ++id) {
      if (logits[id] > logits[best]) best = id;
      nan |= logits[id] != logits[id];
    }
    if (nan || !std::isfinite(logits[best])) return std::nullopt;
    return Sampled{.id = static_cast<int32_t>(best), .logprob = 0.0f, .top = {}};
  }
  float highest;
  const auto total = log_sum(logits, greedy ? 1.0f : params.temperature, highest);
  if (!total) return std::nullopt;
  const auto logprob = [&](float x) { return static_cast<float>(x - *total); };

  Sampled out;
  const bool unfiltered = !greedy && params.top_k <= 0 && params.top_p >= 1.0f && params.min_p <= 0.0f;
  if (unfiltered) {
    const PhiloxCounter random = philox4x32({static_cast<uint32_t>(choice), static_cast<uint32_t>(position), 0, 0}, params.seed);
    const double u = uniform_double(random[0], random[1]);
    double sum = 0.0, walked = 0.0;
    for (const float x : logits) sum += std::exp(x - highest);
    for (size_t id = 0; id < logits.size(); ++id) {
      const double p = std::exp(logits[id] - highest);
      walked += p;
      if (p > 0.0) out.id = static_cast<int32_t>(id);
      if (p > 0.0 && walked > u * sum) break;
    }
  } else {
    filter(logits, params, *total);
    out.id = draw(params, highest, choice, position);
  }
  out.logprob = logprob(logits[static_cast<size_t>(out.id)]);
  if (top_logprobs > 0) {
    rank(logits, static_cast<size_t>(top_logprobs));
    for (const Candidate& c : candidates_) out.top.push_back({c.id, logprob(c.x)});
  }
  return out;
}

std::optional<Sampled> Sampler::sample(std::span<const Candidate> ranked, const RowSummary& row, const SamplingParams& params, int32_t choice, int32_t position, int32_t top_logprobs) {
  if (!std::isfinite(row.highest)) return std::nullopt;
  const bool greedy = params.temperature < kGreedyBelow;
  const double total = std::log(static_cast<double>(row.sum)) + row.highest;
  const size_t top_k = greedy ? 1 : static_cast<size_t>(params.top_k);
  candidates_.assign(ranked.begin(), ranked.begin() + static_cast<int64_t>(std::min(top_k, ranked.size())));
  keep(params, total);
  Sampled out;
  out.id = draw(params, row.highest, choice, position);
  for (const Candidate& c : ranked) {
    if (c.id == out.id) out.logprob = static_cast<float>(c.x - total);
  }
  for (int32_t i = 0; i < top_logprobs; ++i) out.top.push_back({ranked[static_cast<size_t>(i)].id, static_cast<float>(ranked[static_cast<size_t>(i)].x - total)});
  return out;
}

Sampled Sampler::score(std::span<const float> logits, int32_t id, int32_t top) {
  std::vector<float> copy(logits.begin(), logits.end());
  float highest;
  const auto total = log_sum(copy, 1.0f, highest);
  Sampled out{.id = id, .logprob = kMinusInfinity, .top = {}};
  if (!total) return out;
  out.logprob = static_cast<float>(copy[static_cast<size_t>(id)] - *total);
  if (top > 0) {
    rank(copy, static_cast<size_t>(top));
    for (const Candidate& c : candidates_) out.top.push_back({c.id, static_cast<float>(c.x - *total)});
  }
  return out;
}
}  // namespace nibble
