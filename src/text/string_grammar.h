// Strings of limited length, as rules whose masks are quick to make.
//
// A character that is a rule of its own, or one of several ways to write one, is where every token of more than a character leaves what a mask can be made for ahead: the whole vocabulary
// is then tried at each token (22 ms for 2,688 tokens, 55 ms and more for 262,144). So up to kStringRun characters are one automaton, and more are blocks of kStringBlock and a rest:
// only tokens across the end of a block are tried. The automata of blocks are the same in all strings of a grammar and are compiled once.
#pragma once

#include <cstdint>
#include <string>

#include "text/ebnf.h"

namespace nibble {
constexpr int64_t kStringRun = 32;    // characters of a string that is one automaton; each costs a mask when the grammar is compiled (40 ms for 262,144 tokens)
constexpr int64_t kStringBlock = 16;  // of a block of a longer one: smaller compiles sooner, larger tries the vocabulary less often

// The inside of a string of `low` to `high` characters; high < 0: without end. In JSON an escape is one character.
std::string limited_characters(EbnfRules& rules, Spelling spelling, int64_t low, int64_t high);
}  // namespace nibble
