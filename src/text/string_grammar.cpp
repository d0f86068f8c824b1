#include "text/string_grammar.h"

#include <algorithm>

namespace nibble {
namespace {
// JSON's own escapes of the characters that need one, and those that models like to write.
constexpr const char* kJsonCharacter = "([ !#-\\[\\]-\U0010FFFF]|\\\\[\"\\\\/bfnrt])";

// A few, in one rule; "" for none.
std::string run(EbnfRules& rules, Spelling spelling, int64_t low, int64_t high) {
  if (high == 0) return "";
  const std::string count = high < 0 ? "*" : fmt::format("{{{},{}}}", low, high);
  return rules.shared(fmt::format("{} characters {}", spelling == Spelling::native ? "native" : "json", count), [&] {
    if (spelling == Spelling::native) return CharSet::all().ebnf() + count;
    return fmt::format("Regex({})", ebnf_literal(kJsonCharacter + count));
  });
}
}  // namespace

std::string limited_characters(EbnfRules& rules, Spelling spelling, int64_t low, int64_t high) {
  if (high >= 0 && high <= kStringRun) return high == 0 ? "\"\"" : run(rules, spelling, low, high);
  const std::string block = run(rules, spelling, kStringBlock, kStringBlock);
  const int64_t whole = low / kStringBlock, odd = low % kStringBlock;
  const std::string head = run(rules, spelling, odd, odd);
  const auto blocks = [&](int64_t least, int64_t most) { return most == 0 ? std::string() : ebnf_repeat(block, least, most) + " "; };
  if (high < 0) return fmt::format("{} {}{}", head, blocks(whole, whole), run(rules, spelling, 0, -1));
  // What may follow the least: all of its blocks and then up to the last characters, or fewer blocks and up to one less than a block.
  const int64_t more = (high - low) / kStringBlock, last = (high - low) % kStringBlock;
  const std::string full = blocks(whole + more, whole + more) + run(rules, spelling, 0, last);
  if (more == 0) return fmt::format("{} {}", head, full);
  return fmt::format("{} ({}{} | {})", head, blocks(whole, whole + more - 1), run(rules, spelling, 0, kStringBlock - 1), full);
}
}  // namespace nibble
