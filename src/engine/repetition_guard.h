// Notices a reply that has fallen into a loop: the same few tokens, over and over, without end.
//
// For every period p up to kMaxPeriod it counts how many of the newest tokens equal the one p before. A loop is kMinRepeats periods and kMinTokens tokens of that:
// one token 256 times, or a paragraph of 64 tokens 16 times. Lists, tables and code do not do that; text that was asked to repeat itself may.
#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace nibble {
class RepetitionGuard {
 public:
  static constexpr int32_t kMaxPeriod = 64;    // tokens
  static constexpr int32_t kMinRepeats = 16;
  static constexpr int32_t kMinTokens = 256;

  // `output` ends with a new token; call for each. The period of the loop that is complete now, or 0.
  int32_t push(std::span<const int32_t> output) {
    const auto last = static_cast<int32_t>(output.size()) - 1;
    int32_t found = 0;
    for (int32_t p = 1; p <= kMaxPeriod && p <= last; ++p) {
      int32_t& run = runs_[static_cast<size_t>(p - 1)];
      run = output[static_cast<size_t>(last)] == output[static_cast<size_t>(last - p)] ? run + 1 : 0;
      if (found == 0 && run + p >= kMinTokens && run + p >= kMinRepeats * p) found = p;
    }
    return found;
  }

 private:
  std::array<int32_t, kMaxPeriod> runs_{};  // newest tokens that equal the one p before them
};
}  // namespace nibble
