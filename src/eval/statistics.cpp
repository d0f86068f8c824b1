#include "eval/statistics.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/assert.h"

namespace nibble {
double percentile(const std::vector<double>& sorted, double q) {
  if (sorted.empty()) return 0;
  const double h = q / 100 * static_cast<double>(sorted.size() - 1), low = std::floor(h);
  const double a = sorted[static_cast<size_t>(low)], b = sorted[static_cast<size_t>(std::ceil(h))];
  return a + (h - low) * (b - a);
}

Summary summarize(std::vector<double> values) {
  Summary s;
  s.count = static_cast<int64_t>(values.size());
  if (values.empty()) return s;
  std::sort(values.begin(), values.end());
  const auto n = static_cast<double>(values.size());
  s.mean = std::accumulate(values.begin(), values.end(), 0.0) / n;
  double squares = 0;
  for (const double v : values) squares += (v - s.mean) * (v - s.mean);
  s.std = std::sqrt(squares / n);
  s.min = values.front();
  s.max = values.back();
  s.p1 = percentile(values, 1);
  s.p5 = percentile(values, 5);
  s.p10 = percentile(values, 10);
  s.p25 = percentile(values, 25);
  s.p50 = percentile(values, 50);
  s.p75 = percentile(values, 75);
  s.p90 = percentile(values, 90);
  s.p95 = percentile(values, 95);
  s.p99 = percentile(values, 99);
  return s;
}

LogHistogram log_histogram(const std::vector<double>& values) {
  constexpr int kLowest = -3 * LogHistogram::kBinsPerDecade, kHighest = 6 * LogHistogram::kBinsPerDecade;
  std::vector<int64_t> all(kHighest - kLowest + 1);
  for (const double v : values) {
    const double bin = v > 0 ? std::floor(std::log10(v) * LogHistogram::kBinsPerDecade) : kLowest;
    ++all[static_cast<size_t>(std::clamp(bin, double{kLowest}, double{kHighest}) - kLowest)];
  }
  const auto full = [](int64_t n) { return n > 0; };
  const auto begin = std::find_if(all.begin(), all.end(), full), end = std::find_if(all.rbegin(), all.rend(), full).base();
  if (begin >= end) return {};
  return {.first = static_cast<int>(begin - all.begin()) + kLowest, .counts = {begin, end}};
}

double score_error(double p, int64_t n) { return n > 0 ? std::sqrt(std::max(p * (1 - p), 0.0) / static_cast<double>(n)) : 0; }

double sample_std(const std::vector<double>& values) {
  if (values.size() < 2) return 0;
  const double mean = std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
  double squares = 0;
  for (const double v : values) squares += (v - mean) * (v - mean);
  return std::sqrt(squares / static_cast<double>(values.size() - 1));
}

double pass_at(int n, int c, int j) {
  if (n - c < j) return 1;
  double none = 1;  // C(n-c, j) / C(n, j) = prod (n-c-i) / (n-i)
  for (int i = 0; i < j; ++i) none *= static_cast<double>(n - c - i) / static_cast<double>(n - i);
  return 1 - none;
}

Paired paired_test(const std::vector<bool>& a, const std::vector<bool>& b) {
  NB_ASSERT(a.size() == b.size(), "paired rows");
  int64_t only_a = 0, only_b = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    only_a += a[i] && !b[i];
    only_b += b[i] && !a[i];
  }
  return paired_test(static_cast<int64_t>(a.size()), only_a, only_b);
}

Paired paired_test(int64_t n, int64_t b, int64_t c) {
  Paired out{.n = n, .b = b, .c = c};
  const auto rows = static_cast<double>(std::max<int64_t>(n, 1)), difference = static_cast<double>(b - c);
  out.delta = difference / rows;
  out.delta_error = std::sqrt(std::max(static_cast<double>(b + c) - difference * difference / rows, 0.0)) / rows;
  const int64_t m = b + c, least = std::min(b, c);
  double tail = 0;  // P(X <= least), X ~ Binomial(m, 1/2)
  for (int64_t k = 0; k <= least; ++k) {
    const auto d = [](int64_t v) { return static_cast<double>(v); };
    tail += std::exp(std::lgamma(d(m) + 1) - std::lgamma(d(k) + 1) - std::lgamma(d(m - k) + 1) - d(m) * std::log(2.0));
  }
  out.p_value = m == 0 ? 1.0 : std::min(2 * tail, 1.0);
  const double low = out.delta - 1.96 * out.delta_error, high = out.delta + 1.96 * out.delta_error;
  out.verdict = low <= 0 && high >= 0 ? "no measurable loss" : low > 0 ? "loss" : "gain";
  return out;
}
}  // namespace nibble
