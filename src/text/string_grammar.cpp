#include "text/string_grammar.h"

#include <algorithm>

namespace nibble {
namespace {
constexpr const char* kNothing = "[^\\x00-\\U0010FFFF]";  // no character
}  // namespace

std::string any_character(Spelling spelling) {
  if (spelling == Spelling::native) return regex_char(CharSet::all(), spelling);
  // JSON's own escapes of the characters that need one, and those that models like to write.
  return fmt::format("({}|\\\\[\"\\\\/bfnrt])", regex_char(CharSet::all() - CharSet({{0, 0x1F}, {'"', '"'}, {'\\', '\\'}}), Spelling::plain));
}

namespace {
std::string automaton(const std::string& character, int64_t least, int64_t most) {
  return fmt::format("Regex({})", ebnf_literal(character + (most < 0 ? fmt::format("{{{},}}", least) : fmt::format("{{{},{}}}", least, most))));
}
}  // namespace

std::string characters_rule(EbnfRules& rules, const std::string& character, int64_t low, int64_t high) {
  return rules.add(automaton(character, low, high));  // one for each place: then the compiler knows what follows
}

std::string limited_characters(EbnfRules& rules, const std::string& character, Spelling spelling, int64_t low, int64_t high) {
  const bool native = spelling == Spelling::native;
  const std::string kind = (native ? "native " : "json ") + character;
  // What a mask need not try: behind a string stands its closing quote, which in the model's own spelling is no text.
  const auto rest = [&](int64_t least, int64_t most) {
    return rules.shared(fmt::format("{} {} {}", kind, least, most), [&] { return fmt::format("{} (= {})", automaton(character, least, most), native ? kNothing : "\"\\\"\""); });
  };
  const int64_t first = low < kStringAhead + kStringBlock ? 0 : (low - kStringAhead) / kStringBlock, least = low - first * kStringBlock;
  const int64_t room = std::max(kStringAhead, least + kStringBlock - 1);
  const int64_t last = high < 0 ? first : std::max(first, (high - room) / kStringBlock);
  const std::string end = rest(least, high < 0 ? -1 : high - last * kStringBlock);
  if (last == 0) return end;
  const std::string block = rules.shared(kind + " block", [&] {
    const std::string inside = rules.reserve();
    std::string ahead;
    for (int64_t known = 0; known < kStringAhead; known += kStringBlock) ahead += " " + inside;
    rules.define(inside, fmt::format("{} (={})", automaton(character, kStringBlock, kStringBlock), ahead));
    return fmt::format("{} {}", inside, rules.add(fmt::format("\"\" | {}", kNothing)));
  });
  return fmt::format("{} {}", ebnf_repeat(block, first, last), end);
}
}  // namespace nibble
