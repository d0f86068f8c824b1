// POST /v1/messages and /v1/messages/count_tokens, Anthropic's: the request becomes a chat request, the reply is written as content blocks.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "server/api_impl.h"
#include "server/chat_items.h"
#include "server/forwarding_exchange.h"
#include "server/http_text.h"

namespace nibble {
namespace {
// ---- the request ----

std::string text_of_blocks(const Json& blocks, const std::string& path, std::string_view separator) {
  if (blocks.is_string()) return blocks.get<std::string>();
  if (!blocks.is_array()) throw Error(ErrorCode::invalid_argument, fmt::format("'{}' must be a string or an array of text blocks", path), path);
  std::string out;
  for (size_t i = 0; i < blocks.size(); ++i) {
    const Fields block(blocks[i], fmt::format("{}[{}]", path, i));
    if (block.string("type").value_or("") != "text") block.reject("type", "only text blocks are allowed here");
    out.append(out.empty() ? "" : separator).append(block.string("text").value_or(""));
  }
  return out;
}

// An image or a text document as a part of a chat message.
Json media_part(const Fields& block, const std::string& type) {
  const Json* given = block.find("source");
  if (!given) block.reject("source", "'source' is required");
  const Fields source(*given, block.path("source"));
  const std::string kind = source.string("type").value_or("");
  if (type == "document") {
    if (kind != "text") source.reject("type", fmt::format("documents of the source type '{}' are not supported; wanted text", kind));
    return {{"type", "text"}, {"text", source.string("data").value_or("")}};
  }
  if (kind == "base64") {
    return {{"type", "image_url"}, {"image_url", {{"url", fmt::format("data:{};base64,{}", source.string("media_type").value_or("image/png"), source.string("data").value_or(""))}}}};
  }
  if (kind == "url") return {{"type", "image_url"}, {"image_url", {{"url", source.string("url").value_or("")}}}};
  source.reject("type", fmt::format("images of the source type '{}' are not supported; wanted base64", kind));
}

void read_user(const Json& content, const std::string& path, Json& messages) {
  if (content.is_string()) return messages.push_back({{"role", "user"}, {"content", content}});
  Json parts = Json::array();
  for (size_t i = 0; i < content.size(); ++i) {
    const Fields block(content[i], fmt::format("{}[{}]", path, i));
    const std::string type = block.string("type").value_or("");
    if (type == "text") {
      parts.push_back({{"type", "text"}, {"text", block.string("text").value_or("")}});
    } else if (type == "image" || type == "document") {
      parts.push_back(media_part(block, type));
    } else if (type == "tool_result") {
      const auto id = block.string("tool_use_id");
      if (!id) block.reject("tool_use_id", "'tool_use_id' is required");
      Json result = "";
      if (const Json* given = block.find("content"); given && given->is_array()) {
        result = Json::array();
        for (size_t j = 0; j < given->size(); ++j) {
          const Fields inner((*given)[j], fmt::format("{}[{}]", block.path("content"), j));
          const std::string inner_type = inner.string("type").value_or("");
          if (inner_type != "text" && inner_type != "image" && inner_type != "document") inner.reject("type", fmt::format("blocks of the type '{}' are not supported in a tool's result", inner_type));
          result.push_back(inner_type == "text" ? Json{{"type", "text"}, {"text", inner.string("text").value_or("")}} : media_part(inner, inner_type));
        }
      } else if (given) {
        result = text_of_blocks(*given, block.path("content"), " ");
      }
      messages.push_back({{"role", "tool"}, {"tool_call_id", *id}, {"content", std::move(result)}});
    } else {
      block.reject("type", fmt::format("blocks of the type '{}' are not supported in a user's message; wanted text, image, document or tool_result", type));
    }
  }
  if (!parts.empty()) messages.push_back({{"role", "user"}, {"content", std::move(parts)}});
}

void read_assistant(const Json& content, const std::string& path, Json& messages) {
  Json turn = {{"role", "assistant"}, {"content", ""}};
  if (content.is_string()) turn["content"] = content;
  std::string text, thinking;
  for (size_t i = 0; content.is_array() && i < content.size(); ++i) {
    const Fields block(content[i], fmt::format("{}[{}]", path, i));
    const std::string type = block.string("type").value_or("");
    if (type == "text") {
      text += block.string("text").value_or("");
    } else if (type == "thinking") {
      thinking += block.string("thinking").value_or("");
    } else if (type == "tool_use") {
      for (const char* key : {"id", "name"}) {
        if (!block.string(key)) block.reject(key, fmt::format("'{}' is required", key));
      }
      const Json* input = block.find("input");
      if (input && !input->is_object()) block.reject("input", "'input' must be an object");
      turn["tool_calls"].push_back({{"id", *block.string("id")}, {"type", "function"}, {"function", {{"name", *block.string("name")}, {"arguments", input ? dump(*input) : "{}"}}}});
    } else if (type != "redacted_thinking") {
      block.reject("type", fmt::format("blocks of the type '{}' are not supported in an assistant's message; wanted text, thinking or tool_use", type));
    }
  }
  if (!text.empty()) turn["content"] = text;
  if (!thinking.empty()) turn["reasoning_content"] = thinking;
  messages.push_back(std::move(turn));
}

Json chat_tools(const Fields& fields) {
  const Json* tools = fields.find("tools");
  Json out = Json::array();
  if (tools && !tools->is_array()) fields.reject("tools", "'tools' must be an array");
  for (size_t i = 0; tools && i < tools->size(); ++i) {
    const Fields tool((*tools)[i], fmt::format("tools[{}]", i));
    const std::string type = tool.string("type").value_or("custom");
    if (type != "custom") tool.reject("type", fmt::format("tools of the type '{}' are not offered; declare a tool with an input_schema and run it in the client", type));
    Json function = {{"name", tool.string("name").value_or("")}};
    if (const auto description = tool.string("description")) function["description"] = *description;
    if (const Json* schema = tool.find("input_schema")) function["parameters"] = *schema;
    if (const auto strict = tool.boolean("strict")) function["strict"] = *strict;
    out.push_back({{"type", "function"}, {"function", std::move(function)}});
  }
  return out;
}

void read_tool_choice(const Fields& fields, Json& chat) {
  const Json* given = fields.find("tool_choice");
  if (!given) return;
  const Fields choice(*given, "tool_choice");
  const std::string type = choice.string("type").value_or("");
  if (type == "tool") {
    chat["tool_choice"] = {{"type", "function"}, {"function", {{"name", choice.string("name").value_or("")}}}};
  } else if (type == "auto" || type == "any" || type == "none") {
    chat["tool_choice"] = type == "any" ? "required" : type;
  } else {
    choice.reject("type", fmt::format("unknown type '{}'; wanted auto, any, tool or none", type));
  }
  if (choice.boolean("disable_parallel_tool_use").value_or(false)) chat["parallel_tool_calls"] = false;
}

void read_thinking(const Fields& fields, Json& chat) {
  const Json* given = fields.find("thinking");
  if (!given) return;
  const Fields thinking(*given, "thinking");
  const std::string type = thinking.string("type").value_or("");
  if (type != "enabled" && type != "disabled" && type != "adaptive") thinking.reject("type", fmt::format("unknown type '{}'; wanted enabled, disabled or adaptive", type));
  Json& kwargs = chat["chat_template_kwargs"];
  if (!kwargs.is_object()) kwargs = Json::object();
  kwargs["enable_thinking"] = type != "disabled";
  if (const auto budget = thinking.integer("budget_tokens", 1, INT32_MAX); budget && type == "enabled") kwargs["thinking_budget"] = *budget;
}

Json chat_body(const Json& body) {
  const Fields fields(body);
  for (const char* key : {"container", "mcp_servers", "context_management"}) {
    if (const Json* value = fields.find(key); value && !value->empty()) fields.reject(key, fmt::format("'{}' is not supported: nothing is stored or run here", key));
  }
  Json chat = Json::object();
  for (const char* key : {"model", "stream", "temperature", "top_p", "top_k", "max_tokens", "chat_template_kwargs", "seed", "min_p", "cache_salt", "rid", "ignore_eos"}) {
    if (fields.has(key)) chat[key] = body[key];
  }
  if (const Json* stops = fields.find("stop_sequences")) {
    if (!stops->is_array()) fields.reject("stop_sequences", "'stop_sequences' must be an array of strings");
    for (size_t i = 0; i < stops->size(); ++i) {
      if (!(*stops)[i].is_string()) fields.reject(fmt::format("stop_sequences[{}]", i), "'stop_sequences' must be an array of strings");
    }
    chat["stop"] = *stops;
  }
  Json messages = Json::array();
  if (const Json* system = fields.find("system"); system && !system->empty()) {
    if (const std::string text = text_of_blocks(*system, "system", "\n"); !text.empty()) messages.push_back({{"role", "system"}, {"content", text}});
  }
  const Json* given = fields.find("messages");
  if (!given) fields.reject("messages", "'messages' is required");
  if (!given->is_array() || given->empty()) fields.reject("messages", "'messages' must be an array and not empty");
  for (size_t i = 0; i < given->size(); ++i) {
    const std::string path = fmt::format("messages[{}]", i);
    const Fields message((*given)[i], path);
    const std::string role = message.string("role").value_or("");
    const Json* content = message.find("content");
    if (!content) message.reject("content", "'content' is required");
    if (!content->is_string() && !content->is_array()) message.reject("content", "'content' must be a string or an array of blocks");
    if (role == "user") {
      read_user(*content, path + ".content", messages);
    } else if (role == "assistant") {
      read_assistant(*content, path + ".content", messages);
    } else if (role == "system") {
      messages.push_back({{"role", "system"}, {"content", text_of_blocks(*content, path + ".content", "\n")}});
    } else {
      message.reject("role", fmt::format("unknown role '{}'; wanted user or assistant", role));
    }
  }
  // A last message of the assistant is the beginning of the reply.
  if (!messages.empty() && messages.back()["role"] == "assistant" && !messages.back().contains("tool_calls")) chat["continue_final_message"] = true;
  chat["messages"] = std::move(messages);
  if (Json tools = chat_tools(fields); !tools.empty()) chat["tools"] = std::move(tools);
  read_tool_choice(fields, chat);
  read_thinking(fields, chat);
  const Json* output = fields.find("output_config");
  const Json* format = output && output->is_object() && output->contains("format") ? &(*output)["format"] : fields.find("output_format");
  if (format && format->is_object()) {
    const Fields f(*format, output ? "output_config.format" : "output_format");
    if (f.string("type").value_or("") != "json_schema" || !f.has("schema")) f.reject("type", "the format must be {type: json_schema, schema}");
    chat["response_format"] = {{"type", "json_schema"}, {"json_schema", {{"name", "output"}, {"schema", (*format)["schema"]}}}};
  }
  return chat;
}

// ---- the reply ----

constexpr const char* kCancelled = "the request was cancelled";

std::string_view error_type(int status) {
  switch (status) {
    case 401: return "authentication_error";
    case 404: return "not_found_error";
    case 413: return "request_too_large";
    case 503: return "overloaded_error";
    default: return status >= 500 ? "api_error" : "invalid_request_error";
  }
}

Json error_body(int status, const Json& message) { return {{"type", "error"}, {"error", {{"type", error_type(status)}, {"message", message}}}}; }

// Errors in Anthropic's shape; all else passes.
class MessagesExchange final : public ForwardingExchange {
 public:
  MessagesExchange(ExchangePtr inner, std::string id) : ForwardingExchange(std::move(inner)), id_(std::move(id)) {}
  void respond(HttpResponse response) override {
    response.headers.emplace_back("request-id", id_);
    if (response.status >= 400) {
      Json body = error_body(response.status, Json::parse(response.body)["error"]["message"]);
      body["request_id"] = id_;
      response.body = dump(body);
    }
    ForwardingExchange::respond(std::move(response));
  }

 private:
  std::string id_;
};

class MessagesWriter final : public ItemWriter {
 public:
  void end(ChatReply& reply) override {
    if (reply.choices()[0]->finish == "abort") return send(reply, error_body(503, kCancelled));
    const auto [reason, sequence] = stop(reply);
    send(reply, {{"type", "message_delta"}, {"delta", {{"stop_reason", reason}, {"stop_sequence", sequence}}}, {"usage", usage(reply)}});
    send(reply, {{"type", "message_stop"}});
  }

  void failed(ChatReply& reply, const Error& error) override { send(reply, error_body(error_response(error).status, error.message)); }

  HttpResponse whole(ChatReply& reply) override {
    if (reply.choices()[0]->finish == "abort") return error_response(503, kCancelled, "", "unavailable");
    Json message = head(reply);
    for (const ReplyItem& item : items()) message["content"].push_back(block(item, /*with_content=*/true));
    const auto [reason, sequence] = stop(reply);
    message["stop_reason"] = reason;
    message["stop_sequence"] = sequence;
    message["usage"] = usage(reply);
    return {.status = 200, .body = dump(message), .content_type = "application/json", .headers = {}};
  }

 protected:
  ReplyItem make_item(ReplyItem::Kind kind) const override { return {.kind = kind, .id = kind == ReplyItem::Kind::call ? "toolu_" + random_hex(24) : "", .name = {}, .call_id = {}, .text = {}}; }

  void first_token(ChatReply& reply) override {
    Json message = head(reply);
    message["usage"] = usage(reply);
    send(reply, {{"type", "message_start"}, {"message", std::move(message)}});
  }
  void opened(ChatReply& reply, const ReplyItem& item, size_t index) override {
    send(reply, {{"type", "content_block_start"}, {"index", index}, {"content_block", block(item, /*with_content=*/false)}});
  }
  void grew(ChatReply& reply, const ReplyItem& item, size_t index, const std::string& text) override {
    Json delta;
    switch (item.kind) {
      case ReplyItem::Kind::text: delta = {{"type", "text_delta"}, {"text", text}}; break;
      case ReplyItem::Kind::reasoning: delta = {{"type", "thinking_delta"}, {"thinking", text}}; break;
      case ReplyItem::Kind::call: delta = {{"type", "input_json_delta"}, {"partial_json", text}}; break;
    }
    send(reply, {{"type", "content_block_delta"}, {"index", index}, {"delta", std::move(delta)}});
  }
  void closed(ChatReply& reply, const ReplyItem&, size_t index, bool) override { send(reply, {{"type", "content_block_stop"}, {"index", index}}); }

 private:
  Json head(ChatReply& reply) const {
    return {{"id", id_}, {"type", "message"}, {"role", "assistant"}, {"model", reply.api().shown_model(reply.fields().model)}, {"content", Json::array()}, {"stop_reason", nullptr},
            {"stop_sequence", nullptr}};
  }

  static Json usage(ChatReply& reply) {
    const ChatUsage u = reply.usage();
    return {{"input_tokens", u.prompt - u.cached}, {"cache_creation_input_tokens", 0}, {"cache_read_input_tokens", u.cached}, {"output_tokens", u.completion}};
  }

  static Json block(const ReplyItem& item, bool with_content) {
    switch (item.kind) {
      case ReplyItem::Kind::text: return {{"type", "text"}, {"text", with_content ? item.text : ""}};
      case ReplyItem::Kind::reasoning: return {{"type", "thinking"}, {"thinking", with_content ? item.text : ""}, {"signature", ""}};
      default: {
        Json input = with_content ? Json::parse(item.text, nullptr, false) : Json::object();
        if (!input.is_object()) input = {{"__incomplete_json", item.text}};  // cut off by a limit; stop_reason says so
        return {{"type", "tool_use"}, {"id", item.id}, {"name", item.name}, {"input", std::move(input)}};
      }
    }
  }

  static std::pair<Json, Json> stop(ChatReply& reply) {
    const ChatChoice& c = *reply.choices()[0];
    if (c.finish == "tool_calls") return {"tool_use", nullptr};
    if (c.finish == "length") return {"max_tokens", nullptr};
    if (!c.reply.matched_stop().empty()) return {"stop_sequence", c.reply.matched_stop()};
    return {"end_turn", nullptr};
  }

  static void send(ChatReply& reply, const Json& event) { reply.exchange().event(dump(event), event["type"].get_ref<const std::string&>()); }

  std::string id_ = "msg_" + random_hex(24);
};
}  // namespace

ExchangePtr messages_exchange(ExchangePtr inner, const std::string& id) { return std::make_shared<MessagesExchange>(std::move(inner), id); }

void Api::Impl::messages(const Json& body, const HttpRequest& http, const ExchangePtr& exchange) {
  const Json request = chat_body(body);
  const Fields fields(body);
  if (!fields.has("max_tokens")) fields.reject("max_tokens", "'max_tokens' is required");
  chat(request, http, exchange, std::make_shared<MessagesWriter>());
}

HttpResponse Api::Impl::count_message_tokens(const Json& body) const {
  const Json count = {{"input_tokens", chat_prompt(chat_body(body)).ids.size()}};
  return {.status = 200, .body = dump(count), .content_type = "application/json", .headers = {}};
}
}  // namespace nibble
