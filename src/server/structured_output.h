// What a request says about the form of its reply (response_format, json_schema, regex, ebnf, structural_tag, tools with tool_choice), and the grammar for it.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <nlohmann/json_fwd.hpp>
#include <set>
#include <string>
#include <vector>

#include "engine/grammar.h"
#include "engine/request.h"
#include "server/json_body.h"
#include "text/reply_grammar.h"

namespace nibble {
struct OutputFormat {
  enum class Kind { text, json_object, json_schema, regex, ebnf, structural_tag } kind = Kind::text;
  std::string what;     // the schema or tag as JSON, the expression, the grammar
  bool strict = false;  // unsupported keywords of the schema are refused
  std::string param;    // the field it came from
};
// Throws Error with the field's path.
OutputFormat read_output_format(const Fields& fields);

// How a chat request wants its tools used.
struct ToolUse {
  enum class Choice { none, automatic, forced } choice = Choice::none;
  std::string name;    // forced: the one function; empty: any
  bool several = true; // parallel_tool_calls
  bool parse() const { return choice != Choice::none; }
};
// `tools` as read_tools() gives them: an array or null.
ToolUse read_tool_use(const Fields& fields, const Json& tools);

// Whether a body asks for a grammar, which may take long to compile; says nothing about whether its fields are right.
bool may_want_grammar(const Json& body);

class StructuredOutput {
 public:
  // Without `enabled` (--grammar-backend none), requests that need a grammar are refused, and calls are free.
  StructuredOutput(const Tokenizer& tokenizer, const std::vector<int32_t>& stop_ids, bool enabled, int max_whitespace);

  // The grammar of a reply; null: anything goes. Blocks while it compiles, so not for a thread that others wait for. Throws Error with the field's path.
  std::shared_ptr<const Grammar> of_format(const OutputFormat& format, ThoughtFirst thought);
  std::shared_ptr<const Grammar> of_chat(const OutputFormat& format, const ToolUse& use, const Json& tools, ThoughtFirst thought);

  void constrain(Request& request, std::shared_ptr<const Grammar> grammar) const;

 private:
  std::shared_ptr<const Grammar> compiled(const std::string& param, const std::function<GrammarSource()>& source);

  bool enabled_;
  std::vector<int32_t> stop_ids_;  // of the end tokens those that are no text
  ReplyGrammars grammars_;
  GrammarCompiler compiler_;
  std::mutex mutex_;
  std::set<std::string> reported_;
};
}  // namespace nibble
