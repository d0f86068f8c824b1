// String operations of the template language that keep each byte's origin, and JSON as Python writes it.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/jinja_value.h"

namespace nibble::jinja {
Text upper(const Text& text);  // full Unicode mapping where one character becomes several too (the sharp s)
Text lower(const Text& text);
Text title(const Text& text);
Text capitalize(const Text& text);
// Without `characters`: Python's white space.
Text trim(const Text& text, std::string_view characters, bool left, bool right);
Text replace(const Text& text, const Text& from, const Text& to, int64_t count);  // count < 0: all
// An empty separator splits at runs of white space. limit < 0: no limit.
std::vector<Text> split(const Text& text, std::string_view separator, int64_t limit, bool from_right);
std::vector<Text> split_lines(const Text& text);
bool is_python_space(uint32_t code_point);

struct JsonStyle {
  std::optional<int64_t> indent;
  bool ensure_ascii = false, sort_keys = false;
  std::string comma = ", ", colon = ": ";
};
void append_json(Text& out, const Value& value, const JsonStyle& style, int depth);
}  // namespace nibble::jinja
