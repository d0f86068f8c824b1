// Regular expressions to EBNF: the subset of ECMA-262's (and Python's) that describes a regular language.
//
//   characters, escapes \n \r \t \f \v \0 \xHH \uHHHH \u{H}, classes [a-z] [^a-z] \d \w \s \D \W \S, "." (no line break), groups (...) (?:...) (?<name>...),
//   alternatives, quantifiers ? * + {n} {n,} {n,m} (lazy ones are the same language), ^ and $ at the ends of the whole or of an alternative.
//   \d, \w, \s and \W mean ASCII.
//
// Refused with Error(invalid_argument), naming the construct: look-around, back references, \b, \p{...}, flags, anchors inside, repetitions beyond 10,000.
#pragma once

#include <string>
#include <string_view>

#include "text/ebnf.h"

namespace nibble {
struct RegexOptions {
  Spelling spelling = Spelling::plain;
  bool search = false;  // the text only has to contain a match where there are no anchors, as in a schema's `pattern`
  // Of the whole text, in characters; < 0: no limit. Only expressions that repeat one class, "^[a-z]+$", can be limited; others are refused.
  int64_t min_length = 0, max_length = -1;
  EbnfRules* string_rules = nullptr;  // where the closing quote of a string follows: a class that is repeated and all of it becomes limited_characters()
};
std::string regex_to_ebnf(std::string_view pattern, const RegexOptions& options);
}  // namespace nibble
