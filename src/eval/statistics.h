// The numbers that reports speak in. Formulas are stated, so that anyone can recompute them.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace nibble {
// For sorted x of length n: h = q/100 (n - 1); x[floor h] + (h - floor h)(x[ceil h] - x[floor h]).
double percentile(const std::vector<double>& sorted, double q);

struct Summary {
  int64_t count = 0;
  double mean = 0, std = 0;  // population standard deviation
  double min = 0, max = 0, p1 = 0, p5 = 0, p10 = 0, p25 = 0, p50 = 0, p75 = 0, p90 = 0, p95 = 0, p99 = 0;
};
Summary summarize(std::vector<double> values);

// How often: count i is of the values in [10^((first + i) / 20), 10^((first + i + 1) / 20)); the first count also holds what is less than 10^-3, the last what is more than 10^6.
struct LogHistogram {
  static constexpr int kBinsPerDecade = 20;
  int first = 0;                // below zero for values below 1
  std::vector<int64_t> counts;  // from the first bin that is not empty to the last; empty without values
};
LogHistogram log_histogram(const std::vector<double>& values);

double score_error(double p, int64_t n);             // sqrt(p (1 - p) / n)
double sample_std(const std::vector<double>& values);  // divisor n - 1; 0 for fewer than two

// pass@j of one row: 1 - C(n-c, j) / C(n, j), 1 when n - c < j.
double pass_at(int n, int c, int j);

// Two configurations on the same rows.
struct Paired {
  int64_t n = 0, b = 0, c = 0;  // b: only A right; c: only B right
  double delta = 0;             // (b - c) / n
  double delta_error = 0;       // sqrt(b + c - (b - c)^2 / n) / n
  double p_value = 1;           // exact binomial (McNemar), two-sided
  std::string_view verdict;     // of B against A: "no measurable loss", "loss" or "gain"
};
Paired paired_test(const std::vector<bool>& a, const std::vector<bool>& b);
Paired paired_test(int64_t n, int64_t b, int64_t c);
}  // namespace nibble
