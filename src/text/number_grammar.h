// Numbers within limits, as JSON writes them, to EBNF. Integers have at most 18 digits, so that they fit 64 bits.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace nibble {
struct NumberLimits {
  std::optional<double> low, high;
  bool low_excluded = false, high_excluded = false;
  bool any() const { return low || high; }
};
// nullopt: no number lies between the limits.
std::optional<std::string> integer_ebnf(const NumberLimits& limits);
// The integers and decimals between the limits; with limits no exponents. Decimals may end short of a limit that is none of their steps.
std::optional<std::string> number_ebnf(const NumberLimits& limits);
// Multiples of 2 <= step <= kMaxStep without limits.
inline constexpr int64_t kMaxStep = 100;
std::string multiple_ebnf(int64_t step, class EbnfRules& rules);
}  // namespace nibble
