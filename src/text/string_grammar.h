// Strings of limited length, as rules whose masks are quick to make.
//
// Masks are made when a grammar is compiled, for each state of an automaton (a rule). A token that leaves its rule is tried at run time, by every request's step, unless the compiler may know
// what follows: 28 ms a token for 262,144 tokens where most leave. So a string is
//
//   block{first,last} rest      block: kStringBlock characters      rest: `least` to `most` characters, kStringAhead or more wherever a block stands before it
//
// where a block is told that kStringAhead characters follow it, (= block block block block), so what it sees of any shorter token is certain, and the rest that a quote does. A token that closes the string
// within a block is taken by a rest that began earlier: ways to read a string overlap on purpose, and the tests compare masks with those of one character after the other.
// The compiler takes such a promise for certain only of a rule that stands in one place and is not the last there: so a rule that is empty or nothing follows it.
#pragma once

#include <cstdint>
#include <string>

#include "text/ebnf.h"

namespace nibble {
constexpr int64_t kStringBlock = 4;   // each character costs a mask when the grammar is compiled (40 ms for 262,144 tokens)
constexpr int64_t kStringAhead = 16;  // of 262,144 tokens 45 are longer; what precedes a quote in one is shorter by a block

// One character of a string of any, as regex_char() gives one. In JSON an escape is one character.
std::string any_character(Spelling spelling);

// The inside of a string of `low` to `high` of `character`; high < 0: without end. `spelling`: json or native; the closing quote must follow.
std::string limited_characters(EbnfRules& rules, const std::string& character, Spelling spelling, int64_t low, int64_t high);
// `low` to `high` of `character` anywhere, as one automaton; high < 0: without end.
std::string characters_rule(EbnfRules& rules, const std::string& character, int64_t low, int64_t high);
}  // namespace nibble
