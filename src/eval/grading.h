// The number in the last \boxed{...} of a reply, compared with the gold number over exact rationals.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace nibble {
// What stands between the braces of the last \boxed{...}; nullopt when there is none, it is not followed by '{' at once, or is never closed.
std::optional<std::string> extract_boxed(std::string_view text);

// Whether the answer has the value of `gold`, a number. docs/formats/grading.md gives the steps and the grammar.
bool same_number(std::string_view gold, std::string_view answer);

// The answer after everything around its value is taken away, as the parser sees it.
std::string canonical_answer(std::string_view answer);
}  // namespace nibble
