// What a JSON text from outside would cost, told before it is parsed: parsers and what walks over their values recurse per level, and objects that keep the order
// of their members compare each new key with all before it.
#pragma once

#include <string_view>

#include "base/error.h"

namespace nibble {
inline constexpr int kMaxJsonDepth = 256;
inline constexpr int64_t kMaxJsonMembers = 10'000;  // of one object; of several together so many that they cost no more

inline constexpr int64_t kMaxJsonComparisons = kMaxJsonMembers * kMaxJsonMembers / 2;

// Of any text, JSON or not. The message begins with a verb: "nests 300 levels deep, at most 256 are allowed". `comparisons_left`: for several texts of one request, from kMaxJsonComparisons down.
Result<void> check_json_shape(std::string_view text, int max_depth = kMaxJsonDepth, int64_t* comparisons_left = nullptr);
}  // namespace nibble
