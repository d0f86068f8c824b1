// POST /v1/responses, without stored state: the request becomes a chat request, the reply is written as items. What would need a store is refused.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "server/api_impl.h"
#include "server/chat_items.h"
#include "server/http_text.h"

namespace nibble {
namespace {
// ---- the request ----

// Items of input as chat messages. A thought, a text and calls that follow each other are one turn of the assistant.
class InputReader {
 public:
  Json messages = Json::array();

  void read(const Json& item, const std::string& path) {
    const Fields fields(item, path);
    const std::string type = fields.string("type").value_or(fields.has("role") ? "message" : "");
    if (type == "message") return read_message(fields);
    if (type == "reasoning") return read_reasoning(fields);
    if (type == "function_call") return read_call(fields);
    if (type == "function_call_output") return read_output(fields);
    if (type == "item_reference") fields.reject("type", "nothing is stored here, so an item cannot be named by its id; send the item itself");
    fields.reject("type", fmt::format("input items of the type '{}' are not supported; wanted message, reasoning, function_call or function_call_output", type));
  }

 private:
  void read_message(const Fields& fields) {
    const std::string role = fields.string("role").value_or("");
    const Json* content = fields.find("content");
    if (!content) fields.reject("content", "'content' is required");
    Json parts = content->is_array() ? Json::array() : *content;
    if (!content->is_array() && !content->is_string()) fields.reject("content", "'content' must be a string or an array of parts");
    for (size_t i = 0; content->is_array() && i < content->size(); ++i) parts.push_back(part((*content)[i], fmt::format("{}[{}]", fields.path("content"), i)));
    if (role == "assistant") {
      if (parts.is_array()) parts = joined(parts);
      Json& turn = assistant_turn(/*fresh=*/has("content") || has("tool_calls"));
      turn["content"] = std::move(parts);
    } else {
      open_ = false;
      messages.push_back({{"role", role}, {"content", std::move(parts)}});
    }
  }

  static Json part(const Json& given, const std::string& path) {
    const Fields fields(given, path);
    const std::string type = fields.string("type").value_or("");
    if (type == "input_text" || type == "output_text" || type == "text") return {{"type", "text"}, {"text", fields.string("text").value_or("")}};
    if (type == "refusal") return {{"type", "text"}, {"text", fields.string("refusal").value_or("")}};
    if (type == "input_image") {
      if (!fields.has("image_url")) fields.reject("image_url", "'image_url' is required: nothing is stored here that a file_id could name");
      Json out = {{"type", "image_url"}, {"image_url", {{"url", given["image_url"]}}}};
      if (fields.has("detail")) out["image_url"]["detail"] = given["detail"];
      return out;
    }
    if (type == "input_audio") return given;
    fields.reject("type", fmt::format("content parts of the type '{}' are not supported; wanted input_text, input_image, input_audio, output_text or refusal", type));
  }

  static std::string joined(const Json& parts) {
    std::string text;
    for (const Json& p : parts) text += p.value("text", "");
    return text;
  }

  void read_reasoning(const Fields& fields) {
    std::string text;
    const Json* content = fields.find("content");
    if (content && !content->is_array()) fields.reject("content", "'content' must be an array of parts");
    for (size_t i = 0; content && i < content->size(); ++i) text += Fields((*content)[i], fmt::format("{}[{}]", fields.path("content"), i)).string("text").value_or("");
    Json& turn = assistant_turn(/*fresh=*/has("content") || has("tool_calls"));
    if (!text.empty()) turn["reasoning_content"] = turn.value("reasoning_content", "") + text;
  }

  void read_call(const Fields& fields) {
    for (const char* key : {"call_id", "name"}) {
      if (!fields.string(key)) fields.reject(key, fmt::format("'{}' is required", key));
    }
    assistant_turn(false)["tool_calls"].push_back({{"id", *fields.string("call_id")}, {"type", "function"},
                                                   {"function", {{"name", *fields.string("name")}, {"arguments", fields.string("arguments").value_or("")}}}});
  }

  void read_output(const Fields& fields) {
    if (!fields.string("call_id")) fields.reject("call_id", "'call_id' is required");
    const Json* output = fields.find("output");
    if (!output) fields.reject("output", "'output' is required");
    Json content = *output;
    if (content.is_array()) {
      for (size_t i = 0; i < content.size(); ++i) content[i] = part(content[i], fmt::format("{}[{}]", fields.path("output"), i));
    } else if (!content.is_string()) {
      fields.reject("output", "'output' must be a string or an array of parts");
    }
    open_ = false;
    messages.push_back({{"role", "tool"}, {"tool_call_id", *fields.string("call_id")}, {"content", std::move(content)}});
  }

  bool has(const char* key) const { return open_ && messages.back().contains(key) && !messages.back()[key].empty(); }
  Json& assistant_turn(bool fresh) {
    if (!open_ || fresh) messages.push_back({{"role", "assistant"}, {"content", ""}});
    open_ = true;
    return messages.back();
  }

  bool open_ = false;  // the last message is an assistant's turn that may grow
};

Json chat_tools(const Fields& fields) {
  Json out = Json::array();
  const Json* tools = fields.find("tools");
  if (tools && !tools->is_array()) fields.reject("tools", "'tools' must be an array");
  for (size_t i = 0; tools && i < tools->size(); ++i) {
    const Fields tool((*tools)[i], fmt::format("tools[{}]", i));
    const std::string type = tool.string("type").value_or("");
    if (type != "function") tool.reject("type", fmt::format("tools of the type '{}' are not offered; declare a function and run it in the client", type));
    Json function = (*tools)[i];
    function.erase("type");
    out.push_back({{"type", "function"}, {"function", std::move(function)}});
  }
  return out;
}

Json chat_tool_choice(const Fields& fields, const Json& choice) {
  if (choice.is_string()) return choice;
  const Fields named(choice, "tool_choice");
  if (named.string("type").value_or("") != "function") fields.reject("tool_choice", "'tool_choice' must be none, auto, required or {type: function, name}");
  return {{"type", "function"}, {"function", {{"name", named.string("name").value_or("")}}}};
}

Json chat_format(const Fields& text) {
  const Json* format = text.find("format");
  if (!format) return nullptr;
  const Fields f(*format, "text.format");
  if (f.string("type").value_or("") != "json_schema") return *format;
  Json schema = *format;
  schema.erase("type");
  return {{"type", "json_schema"}, {"json_schema", std::move(schema)}};
}

void refuse_stored_state(const Fields& fields) {
  static const std::pair<const char*, const char*> kStored[] = {
      {"previous_response_id", "nothing is stored here; send the whole conversation as 'input'"}, {"conversation", "nothing is stored here; send the whole conversation as 'input'"},
      {"prompt", "there are no stored prompts here; send 'instructions' and 'input'"}};
  for (const auto& [key, why] : kStored) {
    if (fields.has(key)) fields.reject(key, fmt::format("'{}' is not supported: {}", key, why));
  }
  if (fields.boolean("background").value_or(false)) fields.reject("background", "'background' is not supported: nothing is stored here; use 'stream'");
  if (fields.string("truncation").value_or("disabled") != "disabled") fields.reject("truncation", "'truncation' must be disabled: no items are dropped; send a shorter 'input'");
  if (fields.has("max_tool_calls")) fields.reject("max_tool_calls", "'max_tool_calls' is not supported: tools are run by the client");
  const Json* include = fields.find("include");
  if (include && !include->is_array()) fields.reject("include", "'include' must be an array");
  for (const Json& what : include ? *include : Json::array()) {
    // Asked for by agents that keep no state; thoughts are sent in the clear, so there is nothing to add.
    if (what != "reasoning.encrypted_content") fields.reject("include", fmt::format("'include' of {} is not supported", dump(what)));
  }
}

Json chat_body(const Json& body) {
  const Fields fields(body);
  refuse_stored_state(fields);
  Json chat = body;  // sampling fields go by the same names
  for (const char* key : {"input", "instructions", "max_output_tokens", "text", "tools", "tool_choice", "store", "include", "truncation", "background", "n", "messages", "max_tokens",
                          "max_completion_tokens", "top_logprobs", "logprobs", "response_format", "stream_options"}) {
    chat.erase(key);
  }
  InputReader reader;
  if (const auto instructions = fields.string("instructions"); instructions && !instructions->empty()) reader.messages.push_back({{"role", "system"}, {"content", *instructions}});
  const Json* input = fields.find("input");
  if (!input) fields.reject("input", "'input' is required");
  if (input->is_string()) {
    reader.messages.push_back({{"role", "user"}, {"content", *input}});
  } else if (input->is_array() && !input->empty()) {
    for (size_t i = 0; i < input->size(); ++i) reader.read((*input)[i], fmt::format("input[{}]", i));
  } else {
    fields.reject("input", "'input' must be a string or an array of items, and not empty");
  }
  chat["messages"] = std::move(reader.messages);
  if (const auto most = fields.integer("max_output_tokens", 1, INT32_MAX)) chat["max_completion_tokens"] = *most;
  if (Json tools = chat_tools(fields); !tools.empty()) chat["tools"] = std::move(tools);
  if (const Json* choice = fields.find("tool_choice")) {
    if (chat.contains("tools") || *choice != "auto") chat["tool_choice"] = chat_tool_choice(fields, *choice);
  }
  if (const Json* text = fields.find("text")) {
    if (Json format = chat_format(Fields(*text, "text")); !format.is_null()) chat["response_format"] = std::move(format);
  }
  return chat;
}

// ---- the reply ----

class ResponsesWriter final : public ItemWriter {
 public:
  ResponsesWriter(const Json& body, const SamplingDefaults& defaults) {
    const auto given = [&](const char* key, Json otherwise) { return body.contains(key) && !body[key].is_null() ? body[key] : std::move(otherwise); };
    echo_ = {{"background", false}, {"instructions", given("instructions", nullptr)}, {"max_output_tokens", given("max_output_tokens", nullptr)}, {"metadata", given("metadata", Json::object())},
             {"parallel_tool_calls", given("parallel_tool_calls", true)}, {"previous_response_id", nullptr}, {"reasoning", {{"effort", nullptr}, {"summary", nullptr}}}, {"store", false},
             {"temperature", given("temperature", defaults.temperature)}, {"text", given("text", Json::object())}, {"tool_choice", given("tool_choice", "auto")}, {"tools", Json::array()},
             {"top_p", given("top_p", defaults.top_p)}, {"truncation", "disabled"}};
    if (!echo_["text"].contains("format")) echo_["text"]["format"] = {{"type", "text"}};
    if (const Json reasoning = given("reasoning", nullptr); reasoning.is_object() && reasoning.contains("effort")) echo_["reasoning"]["effort"] = reasoning["effort"];
    for (Json tool : given("tools", Json::array())) {
      for (const char* key : {"parameters", "strict"}) {
        if (!tool.contains(key)) tool[key] = nullptr;
      }
      echo_["tools"].push_back(std::move(tool));
    }
  }

  void begin(ChatReply& reply) override {
    send(reply, "response.created", {{"response", response(reply, "in_progress")}});
    send(reply, "response.in_progress", {{"response", response(reply, "in_progress")}});
  }

  void end(ChatReply& reply) override {
    const std::string status = status_of(reply);
    send(reply, "response." + status, {{"response", response(reply, status)}});
  }

  void failed(ChatReply& reply, const Error& error) override {
    error_ = {{"code", "server_error"}, {"message", error.message}};
    send(reply, "response.failed", {{"response", response(reply, "failed")}});
  }

  HttpResponse whole(ChatReply& reply) override {
    return {.status = 200, .body = dump(response(reply, status_of(reply))), .content_type = "application/json", .headers = {}};
  }

 protected:
  ReplyItem make_item(ReplyItem::Kind kind) const override {
    const bool is_call = kind == ReplyItem::Kind::call;
    return {.kind = kind, .id = (is_call ? "fc_" : kind == ReplyItem::Kind::reasoning ? "rs_" : "msg_") + random_hex(32), .name = {}, .call_id = is_call ? "call_" + random_hex(24) : "", .text = {}};
  }

  void opened(ChatReply& reply, const ReplyItem& item, size_t index) override {
    send(reply, "response.output_item.added", {{"output_index", index}, {"item", item_json(item, "in_progress", /*with_content=*/false)}});
    if (item.kind != ReplyItem::Kind::call) send(reply, "response.content_part.added", {{"item_id", item.id}, {"output_index", index}, {"content_index", 0}, {"part", part_json(item)}});
  }

  void grew(ChatReply& reply, const ReplyItem& item, size_t index, const std::string& text) override {
    Json event = {{"item_id", item.id}, {"output_index", index}};
    if (item.kind != ReplyItem::Kind::call) event["content_index"] = 0;
    event["delta"] = text;
    if (item.kind == ReplyItem::Kind::text) event["logprobs"] = Json::array();
    send(reply, item.kind == ReplyItem::Kind::call ? "response.function_call_arguments.delta" : item.kind == ReplyItem::Kind::text ? "response.output_text.delta" : "response.reasoning_text.delta",
         std::move(event));
  }

  void closed(ChatReply& reply, const ReplyItem& item, size_t index, bool is_cut) override {
    if (item.kind == ReplyItem::Kind::call) {
      send(reply, "response.function_call_arguments.done", {{"item_id", item.id}, {"output_index", index}, {"name", item.name}, {"arguments", item.text}});
    } else {
      Json event = {{"item_id", item.id}, {"output_index", index}, {"content_index", 0}, {"text", item.text}};
      if (item.kind == ReplyItem::Kind::text) event["logprobs"] = Json::array();
      send(reply, item.kind == ReplyItem::Kind::text ? "response.output_text.done" : "response.reasoning_text.done", std::move(event));
      send(reply, "response.content_part.done", {{"item_id", item.id}, {"output_index", index}, {"content_index", 0}, {"part", part_json(item)}});
    }
    send(reply, "response.output_item.done", {{"output_index", index}, {"item", item_json(item, is_cut ? "incomplete" : "completed")}});
  }

 private:
  std::string status_of(ChatReply& reply) {
    const std::string& finish = reply.choices()[0]->finish;
    if (finish == "abort") error_ = {{"code", "server_error"}, {"message", "the request was cancelled"}};
    return finish == "abort" ? "failed" : finish == "length" ? "incomplete" : "completed";
  }

  static Json part_json(const ReplyItem& item) {
    if (item.kind == ReplyItem::Kind::reasoning) return {{"type", "reasoning_text"}, {"text", item.text}};
    return {{"type", "output_text"}, {"text", item.text}, {"annotations", Json::array()}, {"logprobs", Json::array()}};
  }

  static Json item_json(const ReplyItem& item, const char* status, bool with_content = true) {
    const Json content = with_content ? Json::array({part_json(item)}) : Json::array();
    switch (item.kind) {
      case ReplyItem::Kind::reasoning: return {{"id", item.id}, {"type", "reasoning"}, {"summary", Json::array()}, {"content", content}, {"encrypted_content", nullptr}, {"status", status}};
      case ReplyItem::Kind::text: return {{"id", item.id}, {"type", "message"}, {"role", "assistant"}, {"status", status}, {"content", content}};
      default: return {{"id", item.id}, {"type", "function_call"}, {"call_id", item.call_id}, {"name", item.name}, {"arguments", item.text}, {"status", status}};
    }
  }

  Json response(ChatReply& reply, const std::string& status) const {
    const bool over = status != "in_progress";
    Json out = {{"id", id_}, {"object", "response"}, {"created_at", reply.created()}, {"status", status}, {"error", error_},
                {"incomplete_details", status == "incomplete" ? Json{{"reason", "max_output_tokens"}} : Json(nullptr)}, {"model", reply.api().shown_model(reply.fields().model)}};
    out["output"] = Json::array();
    for (size_t i = 0; over && i < items().size(); ++i) {
      const bool is_cut = i + 1 == items().size() && status != "completed";
      out["output"].push_back(item_json(items()[i], is_cut ? "incomplete" : "completed"));
    }
    for (const auto& [key, value] : echo_.items()) out[key] = value;
    const ChatUsage u = reply.usage();
    out["usage"] = !over ? Json(nullptr)
                         : Json{{"input_tokens", u.prompt}, {"input_tokens_details", {{"cached_tokens", u.cached}, {"cache_write_tokens", 0}}}, {"output_tokens", u.completion},
                                {"output_tokens_details", {{"reasoning_tokens", u.reasoning}}}, {"total_tokens", u.prompt + u.completion}};
    return out;
  }

  void send(ChatReply& reply, const std::string& type, Json event) {
    Json out = {{"type", type}, {"sequence_number", sequence_++}};
    out.update(event);
    reply.exchange().event(dump(out), type);
  }

  Json echo_, error_ = nullptr;
  std::string id_ = "resp_" + random_hex(32);
  int64_t sequence_ = 0;
};
}  // namespace

void Api::Impl::responses(const Json& body, const HttpRequest& http, const ExchangePtr& exchange) {
  const Json request = chat_body(body);
  chat(request, http, exchange, std::make_shared<ResponsesWriter>(body, options.chat_defaults));
}
}  // namespace nibble
