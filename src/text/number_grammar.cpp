#include "text/number_grammar.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "text/ebnf.h"

namespace nibble {
namespace {
constexpr int kMaxDigits = 18;
constexpr int64_t kLargest = 999'999'999'999'999'999;
constexpr int kMaxDecimals = 6;

std::string digit_class(char low, char high) { return low == high ? fmt::format("\"{}\"", low) : fmt::format("[{}-{}]", low, high); }

// Digit strings of one length from `low` to `high`, in order. `point` digits from the end a "." is put (0: none).
void between(const std::string& low, const std::string& high, size_t point, const std::string& before, std::vector<std::string>& out) {
  const auto join = [&](const std::string& a, const std::string& b, size_t left) {
    const std::string dot = point > 0 && left == point ? " \".\"" : "";
    return (a.empty() ? "" : a + " ") + b + dot;
  };
  const auto free_digits = [&](std::string text, size_t left) {
    for (; left > 0; --left) text = join(text, "[0-9]", left - 1);
    return text;
  };
  if (low.empty()) {
    out.push_back(before);
    return;
  }
  const size_t left = low.size() - 1;
  if (low.find_first_not_of('0') == std::string::npos && high.find_first_not_of('9') == std::string::npos) {
    out.push_back(free_digits(before, low.size()));
    return;
  }
  if (low[0] == high[0]) {
    between(low.substr(1), high.substr(1), point, join(before, digit_class(low[0], low[0]), left), out);
    return;
  }
  char first = low[0], last = high[0];
  const std::string zeros(left, '0'), nines(left, '9');
  if (low.substr(1) != zeros) {
    between(low.substr(1), nines, point, join(before, digit_class(first, first), left), out);
    ++first;
  }
  const bool tail = high.substr(1) != nines;
  if (tail) --last;
  if (first <= last) out.push_back(free_digits(join(before, digit_class(first, last), left), left));
  if (tail) between(zeros, high.substr(1), point, join(before, digit_class(high[0], high[0]), left), out);
}

// Numbers k / 10^point for 0 <= low <= k <= high, by number of digits.
void magnitudes(int64_t low, int64_t high, size_t point, const std::string& sign, std::vector<std::string>& out) {
  for (size_t digits = point + 1; digits <= kMaxDigits; ++digits) {
    int64_t smallest = 1, largest = 0;
    for (size_t i = 1; i < digits; ++i) smallest *= 10;
    for (size_t i = 0; i < digits; ++i) largest = largest * 10 + 9;
    if (digits == point + 1) smallest = 0;  // "0" and "0.25"
    const int64_t a = std::max(low, smallest), b = std::min(high, largest);
    if (a > b) continue;
    const auto padded = [&](int64_t value) { return fmt::format("{:0{}}", value, digits); };
    between(padded(a), padded(b), point, sign, out);
  }
}

std::vector<std::string> signed_numbers(int64_t low, int64_t high, size_t point) {
  std::vector<std::string> out;
  if (high >= 0) magnitudes(std::max<int64_t>(low, 0), high, point, "", out);
  if (low < 0) magnitudes(std::max<int64_t>(1, -high), -low, point, "\"-\"", out);
  return out;
}

// The integers k with limits.low <= k / scale <= limits.high.
std::pair<int64_t, int64_t> steps(const NumberLimits& limits, double scale) {
  double low = limits.low ? std::ceil(*limits.low * scale) : -static_cast<double>(kLargest), high = limits.high ? std::floor(*limits.high * scale) : static_cast<double>(kLargest);
  if (limits.low && limits.low_excluded && low <= *limits.low * scale) low += 1;
  if (limits.high && limits.high_excluded && high >= *limits.high * scale) high -= 1;
  const auto fits = [](double x) { return static_cast<int64_t>(std::clamp(x, -9.9e17, 9.9e17)); };
  const int64_t a = limits.low ? fits(low) : -kLargest, b = limits.high ? fits(high) : kLargest;
  return {a, b};
}

std::optional<std::string> either(const std::vector<std::string>& alternatives) {
  if (alternatives.empty()) return std::nullopt;
  std::string out = "(";
  for (const std::string& a : alternatives) out += (out.size() > 1 ? " | " : "") + a;
  return out + ")";
}
}  // namespace

std::optional<std::string> integer_ebnf(const NumberLimits& limits) {
  if (!limits.any()) return "(\"-\"? (\"0\" | [1-9] [0-9]{0,17}))";
  const auto [low, high] = steps(limits, 1);
  if (low > high) return std::nullopt;
  return either(signed_numbers(low, high, 0));
}

std::optional<std::string> number_ebnf(const NumberLimits& limits) {
  if (!limits.any()) return "(\"-\"? (\"0\" | [1-9] [0-9]{0,17}) (\".\" [0-9]{1,17})? ([eE] [+\\-]? [0-9] [0-9]?)?)";
  std::vector<std::string> out;
  const auto [low, high] = steps(limits, 1);
  if (low <= high) out = signed_numbers(low, high, 0);
  // As many decimals as the limits have, and some more: one alternative for each number of them.
  const auto decimals_of = [](double x) {
    for (int d = 0; d < kMaxDecimals; ++d) {
      const double scaled = x * std::pow(10.0, d);
      if (std::abs(scaled - std::round(scaled)) < 1e-9 * std::max(1.0, std::abs(scaled))) return d;
    }
    return kMaxDecimals;
  };
  const int most = std::clamp(std::max({limits.low && limits.high ? 4 : 2, limits.low ? decimals_of(*limits.low) : 0, limits.high ? decimals_of(*limits.high) : 0}), 1, kMaxDecimals);
  for (int d = 1; d <= most; ++d) {
    const double scale = std::pow(10.0, d);
    // A limit such as 0.7 is not exactly 7 / 10: what lies on it is taken to be it.
    NumberLimits near = limits;
    const auto snap = [&](std::optional<double>& x) {
      if (x && std::abs(*x * scale - std::round(*x * scale)) < 1e-9 * std::max(1.0, std::abs(*x * scale))) x = std::round(*x * scale) / scale;
    };
    snap(near.low);
    snap(near.high);
    NumberLimits scaled = near;
    const auto exact = [&](std::optional<double>& x) {
      if (x) x = std::abs(*x * scale - std::round(*x * scale)) < 1e-6 ? std::round(*x * scale) : *x * scale;
    };
    exact(scaled.low);
    exact(scaled.high);
    const auto [a, b] = steps(scaled, 1);
    if (a > b) continue;
    for (std::string& s : signed_numbers(a, b, static_cast<size_t>(d))) out.push_back(std::move(s));
  }
  return either(out);
}

std::string multiple_ebnf(int64_t step, EbnfRules& rules) {
  // One rule per remainder of the digits so far.
  std::vector<std::string> names;
  for (int64_t r = 0; r < step; ++r) names.push_back(rules.reserve());
  const auto digits = [&](int64_t remainder, int first) {
    std::string out;
    for (int d = first; d < 10; ++d) out += fmt::format("{}\"{}\" {}", out.empty() ? "" : " | ", d, names[static_cast<size_t>((remainder * 10 + d) % step)]);
    return out;
  };
  for (int64_t r = 0; r < step; ++r) rules.define(names[static_cast<size_t>(r)], (r == 0 ? "\"\" | " : "") + digits(r, 0));
  return fmt::format("(\"0\" | \"-\"? ({}))", digits(0, 1));
}
}  // namespace nibble
