// Grammars as text: pieces of the EBNF that engine/grammar compiles.
//
// An expression is text that may stand on the right of "::=": every function here returns one that can be put into a sequence or repeated as it is.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"

namespace nibble {
// A set of Unicode characters (surrogates are none), as ascending disjoint ranges.
class CharSet {
 public:
  using Range = std::pair<uint32_t, uint32_t>;  // both ends are in

  CharSet() = default;
  explicit CharSet(std::vector<Range> ranges);  // in any order, may overlap
  static CharSet all() { return CharSet({{0, 0x10FFFF}}); }

  CharSet operator|(const CharSet& other) const;
  CharSet operator-(const CharSet& other) const;
  CharSet operator&(const CharSet& other) const { return *this - (*this - other); }
  bool contains(uint32_t c) const;
  bool empty() const { return ranges_.empty(); }
  const std::vector<Range>& ranges() const { return ranges_; }
  std::string ebnf() const;  // "[a-z]"; not for an empty set

 private:
  std::vector<Range> ranges_;
};

// How the characters of a string are written: as they are; inside "..." with JSON's escapes; between the model's own string delimiters, as they are.
enum class Spelling { plain, json, native };

std::string ebnf_literal(std::string_view utf8);                 // the text itself
std::string ebnf_text(std::string_view utf8, Spelling spelling);  // a string's content
std::string ebnf_char(const CharSet& set, Spelling spelling);     // one character of a string's content
std::string regex_char(const CharSet& set, Spelling spelling);    // the same for the inside of Regex("..."), by ebnf_literal(); a set that is not empty
std::string ebnf_either(const std::vector<std::string>& alternatives);
std::string ebnf_repeat(const std::string& what, int64_t low, int64_t high);  // high < 0: without end

std::vector<uint32_t> code_points(std::string_view utf8);

// A grammar under construction.
class EbnfRules {
 public:
  // Rules get names that start with `prefix`.
  explicit EbnfRules(std::string prefix) : prefix_(std::move(prefix)) {}

  std::string reserve();  // a new rule's name; define() must follow
  void define(const std::string& name, const std::string& expression);
  std::string add(const std::string& expression);  // the name of a rule for it
  // The rule `key`, made by `expression()` when it is first asked for; it may ask for itself.
  template <typename F>
  std::string shared(const std::string& key, F expression) {
    if (const auto found = shared_.find(key); found != shared_.end()) return found->second;
    const std::string name = reserve();
    shared_[key] = name;
    define(name, expression());
    return name;
  }
  const std::string& text() const { return text_; }
  // Grammars beyond this are refused: Error(invalid_argument).
  static constexpr size_t kMaxBytes = 512 << 10;

 private:
  std::string prefix_, text_;
  int count_ = 0;
  std::map<std::string, std::string> shared_;
};
}  // namespace nibble
