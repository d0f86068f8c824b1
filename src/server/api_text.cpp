// /tokenize, /detokenize and the parsers as routes.
#include <nlohmann/json.hpp>

#include "server/api_impl.h"

namespace nibble {
namespace {
HttpResponse json_response(const Json& body) { return {.status = 200, .body = dump(body), .content_type = "application/json", .headers = {}}; }

// The whole text through the parser.
std::pair<std::string, std::string> run(OutputParser& parser, const std::string& text) {
  std::vector<OutputDelta> deltas;
  parser.push_text(text, deltas);
  parser.finish(deltas);
  std::pair<std::string, std::string> out;
  for (const OutputDelta& d : deltas) {
    if (d.kind == OutputDelta::Kind::content) out.first += d.text;
    if (d.kind == OutputDelta::Kind::reasoning) out.second += d.text;
  }
  return out;
}

std::string required_text(const Fields& fields, const char* key) {
  const auto text = fields.string(key);
  if (!text) fields.reject(key, fmt::format("'{}' is required", key));
  return *text;
}
}  // namespace

HttpResponse Api::Impl::tokenize(const Json& body) const {
  const Fields fields(body);
  const bool add_bos = fields.boolean("add_special_tokens").value_or(true);
  if (fields.has("prompt") == fields.has("messages")) fields.reject("prompt", "exactly one of 'prompt' and 'messages' is wanted");
  if (fields.has("messages")) {
    const auto ids = chat_prompt(body).ids;
    return json_response({{"tokens", ids}, {"count", ids.size()}, {"max_model_len", options.context_length}});
  }
  const Json& prompt = body["prompt"];
  if (prompt.is_string()) {
    const auto ids = raw_prompt(prompt.get<std::string>(), add_bos);
    return json_response({{"tokens", ids}, {"count", ids.size()}, {"max_model_len", options.context_length}});
  }
  if (!prompt.is_array()) fields.reject("prompt", "'prompt' must be a string or an array of strings");
  Json tokens = Json::array(), counts = Json::array();
  for (size_t i = 0; i < prompt.size(); ++i) {
    if (!prompt[i].is_string()) fields.reject(fmt::format("prompt[{}]", i), "'prompt' must be a string or an array of strings");
    const auto ids = raw_prompt(prompt[i].get<std::string>(), add_bos);
    counts.push_back(ids.size());
    tokens.push_back(ids);
  }
  return json_response({{"tokens", tokens}, {"count", counts}, {"max_model_len", options.context_length}});
}

HttpResponse Api::Impl::detokenize(const Json& body) const {
  const Fields fields(body);
  if (!fields.has("tokens")) fields.reject("tokens", "'tokens' is required");
  return json_response({{"text", tokenizer.decode(fields.ids("tokens", tokenizer.vocab_size()), fields.boolean("skip_special_tokens").value_or(true))}});
}

HttpResponse Api::Impl::parse_function_call(const Json& body) const {
  const Fields fields(body);
  OutputParser parser({.reasoning = false, .tools = true});
  const auto [text, reasoning] = run(parser, required_text(fields, "text"));
  Json calls = Json::array();
  for (size_t i = 0; i < parser.calls().size(); ++i) calls.push_back({{"tool_index", i}, {"name", parser.calls()[i].name}, {"parameters", parser.calls()[i].arguments}});
  return json_response({{"normal_text", text}, {"calls", calls}});
}

HttpResponse Api::Impl::separate_reasoning(const Json& body) const {
  OutputParser parser({.reasoning = true, .tools = false});
  const auto [text, reasoning] = run(parser, required_text(Fields(body), "text"));
  return json_response({{"reasoning_text", reasoning}, {"text", text}});
}
}  // namespace nibble
