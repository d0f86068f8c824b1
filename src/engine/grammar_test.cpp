#include "engine/grammar.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <random>

#include "base/test_paths.h"
#include "text/regex_grammar.h"
#include "text/reply_grammar.h"
#include "text/string_grammar.h"

namespace nibble {
namespace {
const std::vector<int32_t> kStops{1, 106, 50};
constexpr int32_t kCall = 48, kCallEnd = 49;

const Tokenizer& demo_tokenizer() {
  static const Tokenizer tokenizer = Tokenizer::load(std::filesystem::path(NIBBLE_REPO_DIR) / "models/demo");
  return tokenizer;
}

std::vector<int32_t> allowed_ids(GrammarMatcher& matcher) {
  std::vector<uint32_t> bits(static_cast<size_t>(demo_tokenizer().vocab_size() + 31) / 32);
  matcher.allowed(bits);
  std::vector<int32_t> ids;
  for (int32_t id = 0; id < demo_tokenizer().vocab_size(); ++id) {
    if (bits[static_cast<size_t>(id / 32)] >> (id % 32) & 1) ids.push_back(id);
  }
  return ids;
}

bool accept_text(GrammarMatcher& matcher, const std::string& text) {
  for (const int32_t id : demo_tokenizer().encode(text, false)) {
    if (!matcher.accept(id)) return false;
  }
  return true;
}

std::shared_ptr<const Grammar> compiled(const std::string& ebnf) {
  static GrammarCompiler compiler(demo_tokenizer(), kStops);
  return value_or_raise(compiler.compile(ebnf));
}

std::shared_ptr<const Grammar> compiled_source(const GrammarSource& source) {
  static GrammarCompiler compiler(demo_tokenizer(), kStops);
  return value_or_raise(compiler.compile(source.ebnf, source.root));
}

const char* const kGrammars[] = {
    "root ::= \"a\" [0-9]+ (\"-\" root)?",
    "root ::= \"{\" [^}]* \"}\" | Token(48) \"call:\" [a-z]+ Token(49)",
    "root ::= TokenTagDispatch((48, call), loop_after_dispatch=true)\ncall ::= \"call:\" (\"add\" | \"subtract\") \"{\" [0-9]{1,3} \"}\" Token(49)",
    "root ::= (Token(100) free* Token(101))? \"yes\"\nfree ::= ExcludeToken(100, 101, 1, 106, 50)",
    "root ::= [\\u0000-\\ud7ff\\ue000-\\U0010ffff]{0,9} \"!\"",
};

TEST(GrammarMatcher, AllowsExactlyWhatItAcceptsAndTakesBackWithoutATrace) {
  std::mt19937 random(3);
  for (const char* ebnf : kGrammars) {
    const auto grammar = compiled(ebnf);
    for (int walk = 0; walk < 6; ++walk) {
      GrammarMatcher matcher(grammar, kStops);
      for (int step = 0; step < 8 && !matcher.ended(); ++step) {
        const std::vector<int32_t> allowed = allowed_ids(matcher);
        ASSERT_FALSE(allowed.empty()) << ebnf;
        size_t next = 0;
        for (int32_t id = 0; id < demo_tokenizer().vocab_size(); ++id) {
          const bool bit = next < allowed.size() && allowed[next] == id;
          next += bit;
          const bool accepted = matcher.accept(id);
          ASSERT_EQ(accepted, bit) << ebnf << " at " << step << ": " << demo_tokenizer().token_string(id);
          if (accepted) matcher.rollback(1);
        }
        ASSERT_EQ(allowed_ids(matcher), allowed) << "after a rollback";
        ASSERT_TRUE(matcher.accept(allowed[random() % allowed.size()]));
      }
    }
  }
}

TEST(GrammarMatcher, EndsWhereTheGrammarMayEnd) {
  GrammarMatcher matcher(compiled(kGrammars[0]), kStops);
  EXPECT_FALSE(matcher.accept(106));
  EXPECT_TRUE(accept_text(matcher, "a12"));
  for (const int32_t stop : kStops) {
    EXPECT_TRUE(matcher.accept(stop));
    EXPECT_TRUE(matcher.ended());
    EXPECT_FALSE(matcher.accept(stop));
    matcher.rollback(1);
    EXPECT_FALSE(matcher.ended());
  }
  EXPECT_TRUE(accept_text(matcher, "3-a"));
  EXPECT_FALSE(matcher.accept(1));
  matcher.rollback(static_cast<int32_t>(demo_tokenizer().encode("3-a", false).size()));
  EXPECT_TRUE(matcher.accept(1));
}

TEST(GrammarMatcher, StringsOfLimitedLengthAllowWhatOneCharacterAfterTheOtherAllows) {
  const std::string json_character = "([\\u0020!#-\\u005b\\u005d-\\ud7ff\\ue000-\\U0010ffff] | \"\\\\\" [\"\\\\/bfnrt])";
  const CharSet some({{0, 9}, {'"', '"'}, {'a', 'z'}, {0x300, 0xABCD}, {0x12345, 0x23456}});
  std::mt19937 random(5);
  struct Kind {
    Spelling spelling;
    std::string fast, plain;
  };
  for (const Kind& kind : {Kind{Spelling::json, any_character(Spelling::json), json_character}, Kind{Spelling::native, any_character(Spelling::native), CharSet::all().ebnf()},
                           Kind{Spelling::json, regex_char(some, Spelling::json), ebnf_char(some, Spelling::json)}, Kind{Spelling::native, regex_char(some, Spelling::native), some.ebnf()}}) {
    const std::string mark = kind.spelling == Spelling::native ? "Token(52)" : "\"\\\"\"";
    for (const auto& [low, high] : std::vector<std::pair<int, int>>{{0, 5}, {0, 31}, {0, 32}, {0, 39}, {0, 40}, {3, 57}, {15, 70}, {16, 71}, {23, 61}, {24, 60}, {31, 55}, {47, 48}, {50, 50}, {8, -1}, {30, -1}, {60, 90}}) {
      EbnfRules rules("r");
      const std::string inside = limited_characters(rules, kind.fast, kind.spelling, low, high);
      GrammarMatcher fast(compiled("root ::= " + mark + " " + inside + " " + mark + " \"x\"\n" + rules.text()), kStops);
      GrammarMatcher plain(compiled("root ::= " + mark + " " + ebnf_repeat(kind.plain, low, high) + " " + mark + " \"x\"\n"), kStops);
      for (int reply = 0; reply < 3; ++reply) {
        int accepted = 0;
        for (; accepted < 60 && !fast.ended(); ++accepted) {
          const std::vector<int32_t> allowed = allowed_ids(fast);
          ASSERT_EQ(allowed, allowed_ids(plain)) << kind.plain << ": " << low << " to " << high << ", " << accepted << " tokens in, all: " << inside << "\n" << rules.text();
          // Long tokens and short ones, and an end now and then.
          int32_t id = allowed[random() % allowed.size()];
          for (int tries = 0; tries < 4 && demo_tokenizer().token_bytes(id).size() < reply * 2u; ++tries) id = allowed[random() % allowed.size()];
          ASSERT_TRUE(fast.accept(id) && plain.accept(id)) << demo_tokenizer().token_string(id);
        }
        fast.rollback(accepted);
        plain.rollback(accepted);
      }
    }
  }
}

TEST(GrammarMatcher, PatternsOfStringsAllowWhatOneCharacterAfterTheOtherAllows) {
  std::mt19937 random(6);
  for (const char* pattern : {"^.{1,40}$", "^(.{1,20},){3}.*$", "^[^@]{1,20}@[a-z.]{2,30}$", "^\\s{2,5}[^a-f]{0,7}$", "^(a|[^b]{2,3}c)+$", ".{3}x", "^[^\"]{2,}$"}) {
    for (const Spelling spelling : {Spelling::json, Spelling::native}) {
      EbnfRules rules("r");
      const std::string mark = spelling == Spelling::native ? "Token(52)" : "\"\\\"\"";
      const std::string inside = regex_to_ebnf(pattern, {.spelling = spelling, .search = true, .string_rules = &rules});
      GrammarMatcher fast(compiled("root ::= " + mark + " " + inside + " " + mark + "\n" + rules.text()), kStops);
      GrammarMatcher plain(compiled("root ::= " + mark + " " + regex_to_ebnf(pattern, {.spelling = spelling, .search = true}) + " " + mark + "\n"), kStops);
      for (int reply = 0; reply < 2; ++reply) {
        int accepted = 0;
        for (; accepted < 20 && !fast.ended(); ++accepted) {
          const std::vector<int32_t> allowed = allowed_ids(fast);
          ASSERT_EQ(allowed, allowed_ids(plain)) << pattern << ", " << accepted << " tokens in: " << inside << "\n" << rules.text();
          const int32_t id = allowed[random() % allowed.size()];
          ASSERT_TRUE(fast.accept(id) && plain.accept(id)) << demo_tokenizer().token_string(id);
        }
        fast.rollback(accepted);
        plain.rollback(accepted);
      }
    }
  }
}

TEST(GrammarMatcher, StringsHaveExactlyTheLengthsTheyMayHave) {
  const ReplyGrammars grammars(demo_tokenizer(), kStops, 0);
  const std::vector<std::string> characters{"a", "\\n", "\u00e9", "\\\"", "Z"};  // each one character of the string, some of several tokens
  for (const auto& [low, high] : std::vector<std::pair<int, int>>{{0, 0}, {0, 1}, {3, 3}, {0, 16}, {0, 32}, {0, 33}, {5, 40}, {16, 48}, {17, 49}, {31, 33}, {32, 64}, {40, 47}, {50, 50}, {0, 100}, {15, 95}, {20, -1}, {33, -1}}) {
    std::string schema = "{\"type\": \"string\", \"minLength\": " + std::to_string(low);
    schema += high < 0 ? "}" : ", \"maxLength\": " + std::to_string(high) + "}";
    const GrammarSource source = grammars.json_schema(nlohmann::ordered_json::parse(schema), true, ThoughtFirst::none);
    GrammarMatcher matcher(compiled_source(source), kStops);
    ASSERT_TRUE(accept_text(matcher, "\"")) << schema;
    for (int length = 0; length <= std::max(low, high) + 2; ++length) {
      const int32_t quote = demo_tokenizer().encode("\"", false)[0];
      const bool may_end = matcher.accept(quote);
      if (may_end) matcher.rollback(1);
      ASSERT_EQ(may_end, length >= low && (high < 0 || length <= high)) << schema << " after " << length;
      const bool may_go_on = accept_text(matcher, characters[static_cast<size_t>(length) % characters.size()]);
      ASSERT_EQ(may_go_on, high < 0 || length < high) << schema << " after " << length;
      if (!may_go_on) break;
    }
  }
}

TEST(GrammarMatcher, CallsNameTheirMembersInTheOrderThatTemplatesShow) {
  const ReplyGrammars grammars(demo_tokenizer(), kStops, 0);
  const auto inner = nlohmann::ordered_json::parse(R"({"type": "object", "properties": {"z": {"type": "integer"}, "Y": {"type": "integer"}}})");
  const nlohmann::ordered_json parameters = {{"type", "object"}, {"properties", {{"b", {{"type", "integer"}}}, {"C", inner}, {"a", {{"type", "integer"}}}}}};
  const auto called = compiled_source(grammars.calls({{.name = "f", .parameters = &parameters}}, false, ThoughtFirst::none));
  for (const auto& [arguments, allowed] : std::vector<std::pair<std::string, bool>>{{"{a:1,b:2,C:{Y:4,z:3}}", true}, {"{b:2}", true}, {"{a:1,C:{z:3}}", true}, {"{b:2,a:1}", false}, {"{C:{z:3},a:1}", false}, {"{C:{z:3,Y:4}}", false}}) {
    GrammarMatcher matcher(called, kStops);
    ASSERT_TRUE(matcher.accept(kCall));
    EXPECT_EQ(accept_text(matcher, "call:f" + arguments), allowed) << arguments;
  }
  GrammarMatcher json(compiled_source(grammars.json_schema(parameters, true, ThoughtFirst::none)), kStops);
  EXPECT_TRUE(accept_text(json, R"({"b": 2, "C": {"z": 3, "Y": 4}, "a": 1})"));
}

TEST(GrammarMatcher, ControlTokensAreNoTextAndTextIsNoControlToken) {
  GrammarMatcher matcher(compiled(kGrammars[2]), kStops);
  EXPECT_TRUE(accept_text(matcher, "I think <|tool_call>call:nonsense{"));  // spelled out: text
  EXPECT_TRUE(matcher.accept(kCall));
  EXPECT_FALSE(accept_text(matcher, "hello"));
  EXPECT_FALSE(matcher.accept(106));
  EXPECT_TRUE(accept_text(matcher, "call:add{"));
  EXPECT_FALSE(matcher.accept(kCallEnd));
  EXPECT_TRUE(accept_text(matcher, "12}"));
  EXPECT_TRUE(matcher.accept(kCallEnd));
  EXPECT_TRUE(accept_text(matcher, "and more"));
  EXPECT_TRUE(matcher.accept(106));
}

TEST(GrammarCompiler, RefusesWhatIsWrongTooSlowOrTooLarge) {
  GrammarCompiler compiler(demo_tokenizer(), kStops);
  const auto wrong = compiler.compile("root ::= missing");
  ASSERT_FALSE(wrong.has_value());
  EXPECT_EQ(wrong.error().code, ErrorCode::invalid_argument);
  EXPECT_NE(wrong.error().message.find("missing"), std::string::npos) << wrong.error().message;
  EXPECT_FALSE(compiler.compile("rot ::= \"a\"").has_value());
  EXPECT_FALSE(compiler.compile("root ::= \"a").has_value());
  EXPECT_FALSE(compiler.compile("").has_value());
  EXPECT_FALSE(compiler.compile("root ::= root").has_value());  // no text
  EXPECT_FALSE(compiler.compile("root ::= " + std::string(100000, '(') + "\"a\"" + std::string(100000, ')')).has_value());

  GrammarCompiler hasty(demo_tokenizer(), kStops, {.max_seconds = 0});
  const GrammarSource any = ReplyGrammars(demo_tokenizer(), kStops, 32).json_object(ThoughtFirst::none);
  EXPECT_FALSE(hasty.compile(any.ebnf, any.root).has_value());

  GrammarCompiler small(demo_tokenizer(), kStops, {.max_bytes = 10});
  const auto large = small.compile(kGrammars[0]);
  ASSERT_FALSE(large.has_value());
  EXPECT_NE(large.error().message.find("MiB"), std::string::npos) << large.error().message;
}

// A text can be read in so many ways that a token takes seconds, ten thousand times and more what it takes elsewhere. The limit lies far from both.
TEST(GrammarCompiler, RefusesWhatTakesTooLongForATokenAndMatchersTellIt) {
  const std::string slow = regex_to_ebnf("((.*){0,60}){0,60}", {}), letters = std::string(100, 'b');
  GrammarCompiler compiler(demo_tokenizer(), kStops, {.max_seconds = 600, .max_token_seconds = 0.05});
  const auto refused = compiler.compile("root ::= " + slow);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message.find("too ambiguous"), std::string::npos) << refused.error().message;

  // Where the tokens that are tried do not come so far, the matcher says it when it is there.
  GrammarMatcher matcher(value_or_raise(compiler.compile("root ::= \"" + letters + "\" " + slow)), kStops);
  ASSERT_TRUE(accept_text(matcher, std::string(50, 'b')));
  allowed_ids(matcher);
  EXPECT_FALSE(matcher.is_too_slow());
  ASSERT_TRUE(accept_text(matcher, std::string(50, 'b')));
  for (int word = 0; word < 20 && !matcher.is_too_slow(); ++word) {
    ASSERT_TRUE(accept_text(matcher, " some words"));
    allowed_ids(matcher);
  }
  EXPECT_TRUE(matcher.is_too_slow());
}

TEST(GrammarCompiler, KeepsTheGrammarsLastUsed) {
  GrammarCompiler compiler(demo_tokenizer(), kStops, {.max_cached = 2});
  const auto first = value_or_raise(compiler.compile("root ::= \"a\""));
  EXPECT_EQ(value_or_raise(compiler.compile("root ::= \"a\"")), first);
  value_or_raise(compiler.compile("root ::= \"b\""));
  value_or_raise(compiler.compile("root ::= \"a\""));
  value_or_raise(compiler.compile("root ::= \"c\""));
  EXPECT_EQ(value_or_raise(compiler.compile("root ::= \"a\"")), first);
  EXPECT_NE(first, nullptr);
}
}  // namespace
}  // namespace nibble
