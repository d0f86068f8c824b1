#include "base/json_shape.h"

#include <vector>

namespace nibble {
Result<void> check_json_shape(std::string_view text, int max_depth, int64_t* comparisons_left) {
  std::vector<int64_t> members;  // of the open brackets, the innermost last; -1: an array
  int64_t depth = 0, deepest = 0, comparisons = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '"') in_string = false;
      i += c == '\\';
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      deepest = std::max(deepest, ++depth);
      if (depth <= max_depth) members.push_back(c == '{' ? 1 : -1);
    } else if (c == '}' || c == ']') {
      if (depth > 0 && depth-- <= max_depth) members.pop_back();
    } else if (c == ',' && depth > 0 && depth <= max_depth && members.back() > 0) {
      comparisons += members.back()++;
    }
  }
  if (deepest > max_depth) return fail(ErrorCode::invalid_argument, "nests {} levels deep, at most {} are allowed", deepest, max_depth);
  int64_t all = kMaxJsonComparisons;
  int64_t& left = comparisons_left ? *comparisons_left : all;
  if ((left -= comparisons) < 0) {
    return fail(ErrorCode::invalid_argument, "has objects with too many members: at most {} are taken in one, fewer in each of several", kMaxJsonMembers);
  }
  return {};
}
}  // namespace nibble
