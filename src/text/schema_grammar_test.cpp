// Schemas and expressions as grammars, as far as one can see without an engine that runs them: numbers against every integer near, sets, spellings, refusals.
#include "text/schema_grammar.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <regex>

#include "text/number_grammar.h"
#include "text/regex_grammar.h"

namespace nibble {
namespace {
using Json = nlohmann::ordered_json;

// Number grammars have literals, classes, groups and quantifiers alone: without blanks and quotes they are regular expressions.
std::regex regex_of(const std::string& ebnf) {
  std::string out;
  for (size_t i = 0; i < ebnf.size(); ++i) {
    if (ebnf[i] == ' ') continue;
    if (ebnf[i] == '"') {
      for (++i; ebnf[i] != '"'; ++i) out += ebnf[i] == '.' ? "\\." : std::string(1, ebnf[i]);
    } else {
      out += ebnf[i];
    }
  }
  return std::regex(out);
}

TEST(NumberGrammar, IntegersAreExactlyThoseBetweenTheLimits) {
  const std::vector<std::pair<int, int>> ranges{{0, 0}, {0, 9}, {0, 10}, {5, 5}, {7, 103}, {99, 101}, {-1, 1}, {-10, -3}, {-120, 1203}, {10, 99}, {-250, -250}, {123, 987}, {0, 1199}};
  for (const auto& [low, high] : ranges) {
    for (const bool open : {false, true}) {
      const auto ebnf = integer_ebnf({.low = low, .high = high, .low_excluded = open, .high_excluded = open});
      const int first = low + open, last = high - open;
      ASSERT_EQ(ebnf.has_value(), first <= last) << low << " " << high;
      if (!ebnf) continue;
      const std::regex regex = regex_of(*ebnf);
      for (int n = -300; n <= 1300; ++n) ASSERT_EQ(std::regex_match(std::to_string(n), regex), n >= first && n <= last) << n << " in " << low << ".." << high << ": " << *ebnf;
      for (const char* odd : {"", "-", "00", "01", "+1", "1.0", "-01"}) ASSERT_FALSE(std::regex_match(odd, regex)) << odd;
    }
  }
}

TEST(NumberGrammar, DecimalsLieBetweenTheLimits) {
  const std::vector<std::pair<double, double>> ranges{{0, 1}, {0.5, 0.9}, {-0.25, 0.25}, {-3.75, -1}, {0.125, 12.5}, {99.5, 100.5}};
  for (const auto& [low, high] : ranges) {
    for (const bool open : {false, true}) {
      const auto ebnf = number_ebnf({.low = low, .high = high, .low_excluded = open, .high_excluded = open});
      ASSERT_TRUE(ebnf.has_value());
      const std::regex regex = regex_of(*ebnf);
      int matched = 0;
      for (int k = -50000; k <= 110000; k += 25) {  // thousandths
        const std::string text = fmt::format("{:.3f}", k / 1000.0);
        const bool inside = open ? std::stod(text) > low && std::stod(text) < high : std::stod(text) >= low && std::stod(text) <= high;
        if (text != "-0.000") ASSERT_EQ(std::regex_match(text, regex), inside) << text << " in " << low << ".." << high;
        matched += inside;
      }
      ASSERT_GT(matched, 5);
    }
  }
}

TEST(CharSets, AddTakeAwayAndLeaveOutSurrogates) {
  const CharSet letters({{'a', 'm'}, {'n', 'z'}}), vowels({{'a', 'a'}, {'e', 'e'}, {'i', 'i'}, {'o', 'o'}, {'u', 'u'}});
  EXPECT_EQ(letters.ebnf(), "[a-z]");
  EXPECT_EQ((letters - vowels).ebnf(), "[b-df-hj-np-tv-z]");
  EXPECT_EQ((letters & CharSet({{'x', 0x7E}})).ebnf(), "[x-z]");
  EXPECT_EQ(CharSet::all().ebnf(), "[\\u0000-\\ud7ff\\ue000-\\U0010ffff]");
  EXPECT_TRUE((vowels - letters).empty());
}

TEST(RegexGrammar, SpellsCharactersAsTheirPlaceWants) {
  EXPECT_EQ(ebnf_text("a\"\n", Spelling::plain), "\"a\\u0022\\u000a\"");
  EXPECT_EQ(ebnf_text("a\"\n", Spelling::json), "\"a\\u005c\\u0022\\u005cn\"");
  EXPECT_EQ(ebnf_char(CharSet({{'"', '#'}}), Spelling::json), "([\\u0023] | \"\\u005c\\u0022\")");
}

TEST(RegexGrammar, RefusesWhatIsNotRegularByItsName) {
  const std::vector<std::pair<const char*, const char*>> cases{{"(?=a)", "look-ahead"}, {"(?<!a)b", "look-behind"}, {"(a)\\1", "back reference"}, {"\\bx", "word boundary"}, {"\\p{L}", "property"}, {"a^b", "anchor"},
                                                               {"(a", "'('"}, {"a)", "')'"}, {"[a", "'['"}, {"[z-a]", "range"}, {"a**", "quantifier"}, {"*a", "quantifier"}, {"a{3,2}", "order"}, {"\\", "backslash"}, {"^*", "anchor"}};
  for (const auto& [pattern, what] : cases) {
    try {
      regex_to_ebnf(pattern, {});
      ADD_FAILURE() << pattern;
    } catch (const Error& error) {
      EXPECT_NE(error.message.find(what), std::string::npos) << error.message;
    }
  }
  EXPECT_THROW(regex_to_ebnf(std::string(300, '(') + std::string(300, ')'), {}), Error);
  EXPECT_THROW(regex_to_ebnf("a" + std::string(100000, '*'), {}), Error);
}

TEST(SchemaGrammar, ReferencesThatMultiplyAreRefused) {
  Json schema = Json::parse(R"({"$defs": {"a0": {"type": "integer"}}, "$ref": "#/$defs/a60"})");
  for (int i = 1; i <= 60; ++i) {
    const Json below = {{"$ref", fmt::format("#/$defs/a{}", i - 1)}, {"minimum", i}};
    schema["$defs"][fmt::format("a{}", i)] = {{"type", "object"}, {"properties", {{"x", below}, {"y", below}}}};
  }
  EbnfRules rules("r");
  std::vector<std::string> left_out;
  EXPECT_THROW(schema_to_ebnf(schema, {}, rules, left_out), Error);
}

TEST(SchemaGrammar, WhatIsLeftOutIsReportedUnlessStrict) {
  const Json schema = Json::parse(R"({"type": "object", "properties": {"a": {"type": "string", "not": {}}}})");
  std::vector<std::string> left_out;
  EbnfRules rules("r");
  schema_to_ebnf(schema, {}, rules, left_out);
  EXPECT_EQ(left_out, std::vector<std::string>{"not at #/properties/a"});
  EXPECT_THROW(schema_to_ebnf(schema, {.strict = true}, rules, left_out), Error);
}
}  // namespace
}  // namespace nibble
