#include "server/structured_output.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/json_shape.h"
#include "base/log.h"

namespace nibble {
namespace {
constexpr size_t kMaxReported = 1000;

// A schema or tag, as an object or as the text of one.
Json object_of(const Fields& fields, const char* key) {
  const Json* value = fields.find(key);
  Json json = *value;
  if (json.is_string()) {
    const auto& text = value->get_ref<const std::string&>();
    if (auto shape = check_json_shape(text); !shape) fields.reject(key, fmt::format("'{}' {}", key, shape.error().message));
    json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  }
  if (json.is_discarded() || !(json.is_object() || json.is_boolean())) fields.reject(key, fmt::format("'{}' must be a JSON object", key));
  return json;
}

OutputFormat read_response_format(const Fields& fields) {
  const Fields format(*fields.find("response_format"), fields.path("response_format"));
  const std::string type = format.string("type").value_or("");
  OutputFormat out;
  out.param = fields.path("response_format");
  if (type == "text") return out;
  if (type == "json_object") {
    out.kind = OutputFormat::Kind::json_object;
  } else if (type == "json_schema") {
    if (!format.has("json_schema")) format.reject("json_schema", "'response_format' of the type json_schema needs a 'json_schema'");
    const Fields inner(*format.find("json_schema"), format.path("json_schema"));
    if (!inner.has("schema")) inner.reject("schema", "'json_schema' needs a 'schema'");
    out = {.kind = OutputFormat::Kind::json_schema, .what = dump(object_of(inner, "schema")), .strict = inner.boolean("strict").value_or(false), .param = inner.path("schema")};
  } else if (type == "structural_tag") {
    out.kind = OutputFormat::Kind::structural_tag;
    out.what = dump(*fields.find("response_format"));
  } else {
    format.reject("type", fmt::format("unknown type '{}'; wanted text, json_object, json_schema or structural_tag", type));
  }
  return out;
}
}  // namespace

OutputFormat read_output_format(const Fields& fields) {
  OutputFormat out;
  int given = 0;
  if (fields.has("response_format")) {
    out = read_response_format(fields);
    given += out.kind != OutputFormat::Kind::text;
  }
  using Kind = OutputFormat::Kind;
  for (const auto& [key, kind] : {std::pair{"json_schema", Kind::json_schema}, {"structural_tag", Kind::structural_tag}, {"regex", Kind::regex}, {"ebnf", Kind::ebnf}}) {
    if (!fields.has(key)) continue;
    if (++given > 1) fields.reject(fields.has("response_format") ? "response_format" : key, "at most one of response_format, json_schema, regex, ebnf and structural_tag may be given");
    const bool json = kind == Kind::json_schema || kind == Kind::structural_tag;
    out = {.kind = kind, .what = json ? dump(object_of(fields, key)) : *fields.string(key), .param = fields.path(key)};
    if (out.what.empty()) fields.reject(key, fmt::format("'{}' must not be empty", key));
  }
  return out;
}

ToolUse read_tool_use(const Fields& fields, const Json& tools) {
  ToolUse use;
  use.several = fields.boolean("parallel_tool_calls").value_or(true);
  if (!tools.is_null()) use.choice = ToolUse::Choice::automatic;
  const Json* choice = fields.find("tool_choice");
  if (!choice) return use;
  if (choice->is_string()) {
    const std::string text = *choice;
    if (text == "none") use.choice = ToolUse::Choice::none;
    if (text == "none" || text == "auto") return use;
    if (text != "required") fields.reject("tool_choice", fmt::format("unknown tool_choice '{}'; wanted none, auto, required or a function", text));
    if (tools.is_null()) fields.reject("tool_choice", "'tool_choice' is required, but there are no tools");
  } else {
    const Fields named(*choice, fields.path("tool_choice"));
    const Json* function = named.find("function");
    if (named.string("type").value_or("") != "function" || !function) fields.reject("tool_choice", "'tool_choice' must be none, auto, required or {type: function, function: {name}}");
    use.name = Fields(*function, fields.path("tool_choice.function")).string("name").value_or("");
    bool known = false;
    for (const Json& tool : tools.is_null() ? Json::array() : tools) known = known || tool["function"]["name"] == use.name;
    if (!known) fields.reject("tool_choice", fmt::format("'tool_choice' names the function '{}', which is not among the tools", use.name));
  }
  use.choice = ToolUse::Choice::forced;
  return use;
}

bool may_want_grammar(const Json& body) {
  return std::any_of(body.items().begin(), body.items().end(), [](const auto& item) {
    static const std::set<std::string> kKeys{"response_format", "json_schema", "regex", "ebnf", "structural_tag", "tools"};
    return !item.value().is_null() && kKeys.contains(item.key());
  });
}

namespace {
std::vector<int32_t> control_tokens(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  std::vector<int32_t> out;
  for (const int32_t id : ids) {
    if (tokenizer.contains(id) && tokenizer.is_special(id)) out.push_back(id);
  }
  return out;
}
}  // namespace

StructuredOutput::StructuredOutput(const Tokenizer& tokenizer, const std::vector<int32_t>& stop_ids, bool enabled, int max_whitespace)
    : enabled_(enabled), stop_ids_(control_tokens(tokenizer, stop_ids)), grammars_(tokenizer, stop_ids_, max_whitespace), compiler_(tokenizer, stop_ids_) {}

std::shared_ptr<const Grammar> StructuredOutput::compiled(const std::string& param, const std::function<GrammarSource()>& source) {
  try {
    if (!enabled_) throw Error(ErrorCode::invalid_argument, "this server was started without structured output (--grammar-backend none)");
    if (stop_ids_.empty()) throw Error(ErrorCode::unsupported, "this model has no control token that ends a reply, so that its replies cannot be kept to a grammar");
    const GrammarSource grammar = source();
    for (const std::string& keyword : grammar.left_out) {
      const std::lock_guard lock(mutex_);
      if (reported_.size() < kMaxReported && reported_.insert(keyword).second) log_info("a schema's keyword is not kept to: {}", keyword);
    }
    return value_or_raise(compiler_.compile(grammar.ebnf, grammar.root));
  } catch (const Error& error) {
    const ErrorCode code = error.code == ErrorCode::unsupported ? ErrorCode::invalid_argument : error.code;
    throw Error(code, error.message, error.param.empty() ? param : error.param);
  }
}

std::shared_ptr<const Grammar> StructuredOutput::of_format(const OutputFormat& format, ThoughtFirst thought) {
  using Kind = OutputFormat::Kind;
  if (format.kind == Kind::text) return nullptr;
  return compiled(format.param, [&] {
    switch (format.kind) {
      case Kind::json_schema: return grammars_.json_schema(Json::parse(format.what), format.strict, thought);
      case Kind::structural_tag: return grammars_.structural_tag(Json::parse(format.what), thought);
      case Kind::regex: return grammars_.regex(format.what, thought);
      case Kind::ebnf: return grammars_.ebnf(format.what, thought);
      default: return grammars_.json_object(thought);
    }
  });
}

std::shared_ptr<const Grammar> StructuredOutput::of_chat(const OutputFormat& format, const ToolUse& use, const Json& tools, ThoughtFirst thought) {
  if (format.kind != OutputFormat::Kind::text) {
    if (use.choice == ToolUse::Choice::forced) throw Error(ErrorCode::invalid_argument, "'tool_choice' cannot force a call when the reply's format is given too", "tool_choice");
    return of_format(format, thought);
  }
  if (use.choice == ToolUse::Choice::none || (use.choice == ToolUse::Choice::automatic && (!enabled_ || stop_ids_.empty()))) return nullptr;
  std::vector<ToolDeclaration> declared;
  for (const Json& tool : tools) {
    const Json& function = tool["function"];
    if (!use.name.empty() && function["name"] != use.name) continue;
    const bool has_parameters = function.contains("parameters") && !function["parameters"].is_null();
    declared.push_back({function["name"], has_parameters ? &function["parameters"] : nullptr, function.value("strict", Json()) == true});
  }
  return compiled("tools", [&] { return use.choice == ToolUse::Choice::forced ? grammars_.calls(declared, use.several, thought) : grammars_.free_with_calls(declared); });
}

void StructuredOutput::constrain(Request& request, std::shared_ptr<const Grammar> grammar) const {
  request.grammar = std::move(grammar);
  if (request.grammar) request.grammar_stop_ids = stop_ids_;
}
}  // namespace nibble
