// How far logits are from the reference's, in the measures of goldens/model, and how far they may be: as its README says for engines that round to bf16.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <span>
#include <string>

namespace nibble {
struct LogitsDistance {
  double rms = 0, kl_mean = 0, kl_max = 0;
  double max_abs = 0;
  double widest_margin = 0;  // of the reference's best logit over that of the token chosen here, the highest of all rows
};

// Rows of `vocab` logits each.
inline LogitsDistance logits_distance(std::span<const float> want, std::span<const float> got, size_t vocab) {
  LogitsDistance d;
  if (want.size() != got.size() || want.empty() || want.size() % vocab != 0) {
    ADD_FAILURE() << "logits of " << got.size() << " values, wanted " << want.size();
    return d;
  }
  for (size_t at = 0; at < want.size(); at += vocab) {
    const auto w = want.subspan(at, vocab), g = got.subspan(at, vocab);
    double want_sum = 0, got_sum = 0, kl = 0;
    for (size_t i = 0; i < vocab; ++i) want_sum += std::exp(double{w[i]}), got_sum += std::exp(double{g[i]});
    for (size_t i = 0; i < vocab; ++i) {
      const double apart = double{w[i]} - double{g[i]};
      kl += std::exp(double{w[i]}) / want_sum * (apart - std::log(want_sum / got_sum));
      d.rms += apart * apart;
      d.max_abs = std::max(d.max_abs, std::fabs(apart));
    }
    d.kl_mean += kl;
    d.kl_max = std::max(d.kl_max, kl);
    const auto chosen = static_cast<size_t>(std::ranges::max_element(g) - g.begin());
    d.widest_margin = std::max(d.widest_margin, double{*std::ranges::max_element(w)} - double{w[chosen]});
  }
  d.kl_mean /= static_cast<double>(want.size() / vocab);
  d.rms = std::sqrt(d.rms / static_cast<double>(want.size()));
  return d;
}

// `own`: what the reference's bf16 run shows (manifest.json: bf16_vs_fp32). Mean KL and rms at most twice that, highest KL three times; another top token only where the float32 margin is below
// four times that rms.
inline void expect_near_as_the_references_bf16(const LogitsDistance& d, const LogitsDistance& own, const std::string& what) {
  EXPECT_LT(d.kl_mean, 2 * own.kl_mean) << what;
  EXPECT_LT(d.kl_max, 3 * own.kl_max) << what;
  EXPECT_LT(d.rms, 2 * own.rms) << what;
  EXPECT_LT(d.widest_margin, 4 * own.rms) << what;
}
}  // namespace nibble
