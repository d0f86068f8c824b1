#include "eval/fidelity.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/assert.h"
#include "eval/statistics.h"

namespace nibble {
namespace {
// ln sum exp, so that ln p(v) = logit(v) - this.
double log_partition(std::span<const float> logits) {
  const double most = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float l : logits) sum += std::exp(static_cast<double>(l) - most);
  return most + std::log(sum);
}

std::array<int32_t, 5> top_five(std::span<const float> logits) {
  std::array<int32_t, 5> best;
  best.fill(-1);
  for (int32_t v = 0; v < static_cast<int32_t>(logits.size()); ++v) {
    if (best[4] >= 0 && logits[static_cast<size_t>(v)] <= logits[static_cast<size_t>(best[4])]) continue;
    int at = 4;
    while (at > 0 && (best[static_cast<size_t>(at) - 1] < 0 || logits[static_cast<size_t>(v)] > logits[static_cast<size_t>(best[static_cast<size_t>(at) - 1])])) {
      best[static_cast<size_t>(at)] = best[static_cast<size_t>(at) - 1];
      --at;
    }
    best[static_cast<size_t>(at)] = v;
  }
  return best;
}
}  // namespace

void Fidelity::add(std::span<const float> reference, std::span<const float> candidate, int32_t next) {
  NB_ASSERT(reference.size() == static_cast<size_t>(vocab_size_) && candidate.size() == reference.size(), "one row of logits each");
  const double zp = log_partition(reference), zq = log_partition(candidate);
  double kld = 0;
  for (size_t v = 0; v < reference.size(); ++v) {
    const double ln_p = reference[v] - zp, ln_q = candidate[v] - zq;
    if (ln_p > -700) kld += std::exp(ln_p) * (ln_p - ln_q);
  }
  klds_.push_back(kld);
  const auto p5 = top_five(reference), q5 = top_five(candidate);
  Document& d = documents_.back();
  d.kld += kld;
  d.top1 += p5[0] == q5[0];
  ++d.positions;
  int shared = 0;
  for (const int32_t v : p5) shared += v >= 0 && std::find(q5.begin(), q5.end(), v) != q5.end();
  top5_ += shared / static_cast<double>(std::min<int32_t>(5, vocab_size_));
  if (next < 0) return;
  const double ln_p = reference[static_cast<size_t>(next)] - zp, ln_q = candidate[static_cast<size_t>(next)] - zq;
  d.ln_reference += ln_p;
  d.ln_candidate += ln_q;
  ++d.tokens;
  const double dp = 100 * (std::exp(ln_q) - std::exp(ln_p));
  dp_ += dp;
  dp_squares_ += dp * dp;
}

void Fidelity::end_document() { documents_.emplace_back(); }

nlohmann::ordered_json Fidelity::report() const {
  using Json = nlohmann::ordered_json;
  double positions = 0, tokens = 0, kld = 0, top1 = 0, ln_p = 0, ln_q = 0, n = 0;
  for (const Document& d : documents_) {
    n += d.positions > 0;
    positions += static_cast<double>(d.positions);
    tokens += static_cast<double>(d.tokens);
    kld += d.kld;
    top1 += d.top1;
    ln_p += d.ln_reference;
    ln_q += d.ln_candidate;
  }
  if (positions == 0) return Json{{"positions", 0}};
  // Of a ratio sum(x) / sum(w) over documents, by the delta method: sqrt(n / (n - 1) sum (x - r w)^2) / sum(w).
  const auto error = [&](double ratio, double total, auto x, auto w) {
    double squares = 0;
    for (const Document& d : documents_) squares += std::pow(x(d) - ratio * w(d), 2);
    return n > 1 ? std::sqrt(n / (n - 1) * squares) / total : 0.0;
  };
  const auto in_positions = [](const Document& d) { return static_cast<double>(d.positions); };
  std::vector<double> sorted = klds_;
  std::sort(sorted.begin(), sorted.end());
  Json out = {{"positions", positions}, {"documents", n}, {"kld_mean", kld / positions}, {"kld_mean_se", error(kld / positions, positions, [](const Document& d) { return d.kld; }, in_positions)}};
  for (const auto& [name, q] : {std::pair("kld_p50", 50.0), std::pair("kld_p90", 90.0), std::pair("kld_p95", 95.0), std::pair("kld_p99", 99.0), std::pair("kld_p99.9", 99.9), std::pair("kld_max", 100.0)}) {
    out[name] = percentile(sorted, q);
  }
  out["top1_agreement"] = top1 / positions;
  out["top1_agreement_se"] = error(top1 / positions, positions, [](const Document& d) { return d.top1; }, in_positions);
  out["top5_recall"] = top5_ / positions;
  if (tokens > 0) {
    const double gap = (ln_p - ln_q) / tokens;  // ln of the ratio of perplexities
    out["ppl_ref"] = std::exp(-ln_p / tokens);
    out["ppl"] = std::exp(-ln_q / tokens);
    out["ppl_ratio"] = std::exp(gap);
    out["ppl_ratio_se"] = std::exp(gap) * error(gap, tokens, [](const Document& d) { return d.ln_reference - d.ln_candidate; }, [](const Document& d) { return static_cast<double>(d.tokens); });
    out["dp_mean"] = dp_ / tokens;
    out["dp_rms"] = std::sqrt(dp_squares_ / tokens);
  }
  return out;
}
}  // namespace nibble
