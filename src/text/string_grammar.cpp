#include "text/string_grammar.h"

#include <algorithm>

namespace nibble {
namespace {
// Characters of two bytes and more. Not one class for all: the compiler's would begin at E0 80 and F0 80, which are no characters.
#define BEYOND_ASCII "[\u0080-\u07ff]|[\u0800-\ud7ff]|[\ue000-\uffff]|[\U00010000-\U0010ffff]"

// JSON's own escapes of the characters that need one, and those that models like to write; between the model's delimiters any character.
std::string characters(Spelling spelling, int64_t low, int64_t high) {
  const char* one = spelling == Spelling::native ? "([\\x00-\x7f]|" BEYOND_ASCII ")" : "([ !#-\\[\\]-\x7f]|" BEYOND_ASCII "|\\\\[\"\\\\/bfnrt])";
  return fmt::format("Regex({})", ebnf_literal(one + (high < 0 ? fmt::format("{{{},}}", low) : fmt::format("{{{},{}}}", low, high))));
}
constexpr const char* kNothing = "[^\\x00-\\U0010FFFF]";  // no character
}  // namespace

std::string limited_characters(EbnfRules& rules, Spelling spelling, int64_t low, int64_t high) {
  const bool native = spelling == Spelling::native;
  // What a mask need not try: behind a string stands its closing quote, which in the model's own spelling is no text.
  const auto rest = [&](int64_t least, int64_t most) {
    return rules.shared(fmt::format("{} characters {} {}", native ? "native" : "json", least, most), [&] { return fmt::format("{} (= {})", characters(spelling, least, most), native ? kNothing : "\"\\\"\""); });
  };
  const int64_t first = low < kStringAhead + kStringBlock ? 0 : (low - kStringAhead) / kStringBlock, least = low - first * kStringBlock;
  const int64_t room = std::max(kStringAhead, least + kStringBlock - 1);
  const int64_t last = high < 0 ? first : std::max(first, (high - room) / kStringBlock);
  const std::string end = rest(least, high < 0 ? -1 : high - last * kStringBlock);
  if (last == 0) return end;
  const std::string block = rules.shared(native ? "native block" : "json block", [&] {
    const std::string inside = rules.reserve();
    std::string ahead;
    for (int64_t known = 0; known < kStringAhead; known += kStringBlock) ahead += " " + inside;
    rules.define(inside, fmt::format("{} (={})", characters(spelling, kStringBlock, kStringBlock), ahead));
    return fmt::format("{} {}", inside, rules.add(fmt::format("\"\" | {}", kNothing)));
  });
  return fmt::format("{} {}", ebnf_repeat(block, first, last), end);
}
}  // namespace nibble
