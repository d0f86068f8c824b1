// The grammars of whole replies: a thought first where there may be one, then JSON, text by an expression, or tool calls in the model's own form.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "text/schema_grammar.h"
#include "text/tokenizer.h"

namespace nibble {
struct GrammarSource {
  std::string ebnf, root;
  std::vector<std::string> left_out;  // keywords of schemas that are not kept to, with their places
};

// What a reply may begin with: nothing but the grammar; a thought (<|channel> ... <channel|>); the rest of a thought that the prompt left open.
enum class ThoughtFirst { none, allowed, open };

struct ToolDeclaration {
  std::string name;
  const nlohmann::ordered_json* parameters = nullptr;  // a schema; nullptr: the function takes none
  bool strict = false;
};

class ReplyGrammars {
 public:
  // `stop_ids`: the control tokens that end replies.
  ReplyGrammars(const Tokenizer& tokenizer, std::vector<int32_t> stop_ids, int max_whitespace);

  // All throw Error(invalid_argument) for what cannot be a grammar, unsupported where the vocabulary lacks the control tokens.
  GrammarSource json_object(ThoughtFirst thought) const;
  GrammarSource json_schema(const nlohmann::ordered_json& schema, bool strict, ThoughtFirst thought) const;
  GrammarSource regex(const std::string& pattern, ThoughtFirst thought) const;
  GrammarSource ebnf(const std::string& text, ThoughtFirst thought) const;  // its rule `root`
  // {structures: [{begin, schema, end}], triggers: [...]}: free text in which a trigger must go on as one of the structures.
  GrammarSource structural_tag(const nlohmann::ordered_json& tag, ThoughtFirst thought) const;
  // One call or, when `several`, one and more, and nothing else.
  GrammarSource calls(const std::vector<ToolDeclaration>& tools, bool several, ThoughtFirst thought) const;
  // Anything, but what follows <|tool_call> is a call of one of the tools.
  GrammarSource free_with_calls(const std::vector<ToolDeclaration>& tools) const;

 private:
  GrammarSource whole(EbnfRules& rules, const std::string& answer, ThoughtFirst thought, std::vector<std::string> left_out = {}) const;
  std::string token(const char* text) const;
  std::string call_rule(const std::vector<ToolDeclaration>& tools, EbnfRules& rules, std::vector<std::string>& left_out) const;

  const Tokenizer& tokenizer_;
  std::vector<int32_t> stop_ids_;
  SchemaOptions json_;
};
}  // namespace nibble
