// For errors that help: the known names nearest to a mistyped one.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace nibble {
// Insertions, deletions, substitutions and swaps of neighbours (optimal string alignment).
int edit_distance(std::string_view a, std::string_view b);

// Names within max_distance of `name`, nearest first, at most 3.
std::vector<std::string> nearest_names(std::string_view name, std::span<const std::string> known, int max_distance = 3);
}  // namespace nibble
