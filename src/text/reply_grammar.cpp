#include "text/reply_grammar.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <nlohmann/json.hpp>

#include "text/regex_grammar.h"

namespace nibble {
namespace {
constexpr const char* kRoot = "nibble_root";
constexpr const char* kRulePrefix = "nibble_";
constexpr size_t kMaxStructures = 128;

std::string required_string(const nlohmann::ordered_json& object, const char* key, const std::string& place) {
  if (!object.is_object() || !object.contains(key) || !object[key].is_string()) throw Error(ErrorCode::invalid_argument, fmt::format("{}.{} must be a string", place, key));
  return object[key];
}
}  // namespace

ReplyGrammars::ReplyGrammars(const Tokenizer& tokenizer, std::vector<int32_t> stop_ids, int max_whitespace) : tokenizer_(tokenizer), stop_ids_(std::move(stop_ids)) {
  json_.max_whitespace = max_whitespace;
}

std::string ReplyGrammars::token(const char* text) const {
  const auto id = tokenizer_.id_of(text);
  if (!id || !tokenizer_.is_special(*id)) throw Error(ErrorCode::unsupported, fmt::format("this model's vocabulary has no control token {}", text));
  return fmt::format("Token({})", *id);
}

GrammarSource ReplyGrammars::whole(EbnfRules& rules, const std::string& answer, ThoughtFirst thought, std::vector<std::string> left_out) const {
  std::string before;
  if (thought != ThoughtFirst::none) {
    std::vector<int32_t> ends = stop_ids_;
    for (const char* marker : {"<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|turn>"}) {
      if (const auto id = tokenizer_.id_of(marker)) ends.push_back(*id);
    }
    const std::string body = rules.add(fmt::format("ExcludeToken({})", fmt::join(ends, ", ")));
    before = fmt::format("{}* {} ", body, token("<channel|>"));
    if (thought == ThoughtFirst::allowed) before = fmt::format("({} {})? ", token("<|channel>"), before);
  }
  rules.define(kRoot, before + answer);
  return {rules.text(), kRoot, std::move(left_out)};
}

GrammarSource ReplyGrammars::json_object(ThoughtFirst thought) const {
  EbnfRules rules(kRulePrefix);
  const std::string object = any_object_to_ebnf(json_, rules);
  return whole(rules, object, thought);
}

GrammarSource ReplyGrammars::json_schema(const nlohmann::ordered_json& schema, bool strict, ThoughtFirst thought) const {
  if (const size_t bytes = schema.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace).size(); bytes > EbnfRules::kMaxBytes) {
    throw Error(ErrorCode::invalid_argument, fmt::format("the schema has {} KiB, at most {} are allowed", bytes >> 10, EbnfRules::kMaxBytes >> 10));
  }
  EbnfRules rules(kRulePrefix);
  SchemaOptions options = json_;
  options.strict = strict;
  std::vector<std::string> left_out;
  const std::string value = schema_to_ebnf(schema, options, rules, left_out);
  return whole(rules, value, thought, std::move(left_out));
}

GrammarSource ReplyGrammars::regex(const std::string& pattern, ThoughtFirst thought) const {
  EbnfRules rules(kRulePrefix);
  return whole(rules, regex_to_ebnf(pattern, {}), thought);
}

GrammarSource ReplyGrammars::ebnf(const std::string& text, ThoughtFirst thought) const {
  if (text.size() > EbnfRules::kMaxBytes) throw Error(ErrorCode::invalid_argument, fmt::format("the grammar is larger than {} KiB", EbnfRules::kMaxBytes >> 10));
  EbnfRules rules(kRulePrefix);
  GrammarSource source = whole(rules, "root", thought);
  source.ebnf = text + "\n" + source.ebnf;
  return source;
}

GrammarSource ReplyGrammars::structural_tag(const nlohmann::ordered_json& tag, ThoughtFirst thought) const {
  const auto refuse = [](const std::string& why) { throw Error(ErrorCode::invalid_argument, "a structural tag " + why); };
  if (!tag.contains("structures") || !tag["structures"].is_array() || tag["structures"].empty() || tag["structures"].size() > kMaxStructures) {
    refuse(fmt::format("must have 'structures', an array of 1 to {} objects {{begin, schema, end}}", kMaxStructures));
  }
  if (!tag.contains("triggers") || !tag["triggers"].is_array() || tag["triggers"].empty()) refuse("must have 'triggers', an array of strings");
  EbnfRules rules(kRulePrefix);
  std::vector<std::string> left_out, dispatch;
  std::vector<bool> used(tag["structures"].size(), false);
  for (const auto& trigger : tag["triggers"]) {
    if (!trigger.is_string() || trigger.get_ref<const std::string&>().empty()) refuse("must have triggers that are strings and not empty");
    const std::string start = trigger;
    std::vector<std::string> ways;
    for (size_t i = 0; i < tag["structures"].size(); ++i) {
      const std::string place = fmt::format("structures[{}]", i);
      const std::string begin = required_string(tag["structures"][i], "begin", place), end = required_string(tag["structures"][i], "end", place);
      if (!begin.starts_with(start) || used[i]) continue;
      used[i] = true;
      const nlohmann::ordered_json schema = tag["structures"][i].contains("schema") ? tag["structures"][i]["schema"] : nlohmann::ordered_json(true);
      if (!schema.is_object() && !schema.is_boolean()) refuse(fmt::format("must have schemas; {}.schema is none", place));
      ways.push_back(fmt::format("({} {} {})", ebnf_literal(begin.substr(start.size())), schema_to_ebnf(schema, json_, rules, left_out), ebnf_literal(end)));
    }
    if (ways.empty()) refuse(fmt::format("has the trigger '{}', with which no structure begins", start));
    dispatch.push_back(fmt::format("({}, {})", ebnf_literal(start), rules.add(ebnf_either(ways))));
  }
  for (size_t i = 0; i < used.size(); ++i) {
    if (!used[i]) refuse(fmt::format("has structures[{}], which begins with none of the triggers", i));
  }
  const std::string text = rules.add(fmt::format("TagDispatch({})", fmt::join(dispatch, ", ")));
  return whole(rules, text, thought, std::move(left_out));
}

std::string ReplyGrammars::call_rule(const std::vector<ToolDeclaration>& tools, EbnfRules& rules, std::vector<std::string>& left_out) const {
  SchemaOptions options;
  options.spelling = Spelling::native;
  options.closed = true;
  options.quote = token("<|\"|>");
  std::vector<std::string> ways;
  for (const ToolDeclaration& tool : tools) {
    options.strict = tool.strict;
    const nlohmann::ordered_json nothing = true;
    try {
      ways.push_back(fmt::format("({} {})", ebnf_literal(tool.name), call_members_to_ebnf(tool.parameters ? *tool.parameters : nothing, options, rules, left_out)));
    } catch (const Error& error) {
      throw Error(error.code, fmt::format("the parameters of the function '{}': {}", tool.name, error.message), error.param);
    }
  }
  return rules.add(fmt::format("\"call:\" {} {}", ebnf_either(ways), token("<tool_call|>")));
}

GrammarSource ReplyGrammars::calls(const std::vector<ToolDeclaration>& tools, bool several, ThoughtFirst thought) const {
  EbnfRules rules(kRulePrefix);
  std::vector<std::string> left_out;
  const std::string call = rules.add(token("<|tool_call>") + " " + call_rule(tools, rules, left_out));
  return whole(rules, several ? call + "+" : call, thought, std::move(left_out));
}

GrammarSource ReplyGrammars::free_with_calls(const std::vector<ToolDeclaration>& tools) const {
  EbnfRules rules(kRulePrefix);
  std::vector<std::string> left_out;
  const std::string call = call_rule(tools, rules, left_out);
  token("<|tool_call>");  // it is there
  rules.define(kRoot, fmt::format("TokenTagDispatch(({}, {}), loop_after_dispatch=true)", *tokenizer_.id_of("<|tool_call>"), call));
  return {rules.text(), kRoot, std::move(left_out)};
}
}  // namespace nibble
