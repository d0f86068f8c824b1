// The format of /v1/chat/completions: one JSON body, or chunks of deltas that end with [DONE].
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "server/api_impl.h"
#include "server/chat_reply.h"
#include "server/http_text.h"

namespace nibble {
namespace {
class OpenAiWriter final : public ChatWriter {
 public:
  explicit OpenAiWriter(bool stream_reasoning) : stream_reasoning_(stream_reasoning) {}

  void step(ChatReply& reply, int32_t index, const std::vector<OutputDelta>& deltas) override {
    if (!reply.fields().stream) return;
    ChatChoice& c = *reply.choices()[static_cast<size_t>(index)];
    Sent& sent = sent_[index];
    if (!std::exchange(sent.role, true)) {
      // Before the text of the first step: its logprobs travel with that.
      const auto kept = std::exchange(c.logprobs, {});
      send_chunk(reply, index, {{"role", "assistant"}, {"content", ""}, {"reasoning_content", nullptr}});
      c.logprobs = kept;
    }
    for (const OutputDelta& d : deltas) {
      if (d.kind != OutputDelta::Kind::reasoning) flush_reasoning(reply, index);
      switch (d.kind) {
        case OutputDelta::Kind::content: send_content(reply, index, d.text); break;
        case OutputDelta::Kind::reasoning:
          sent.held_reasoning += d.text;
          if (stream_reasoning_) flush_reasoning(reply, index);
          break;
        case OutputDelta::Kind::call_begin:
          send_chunk(reply, index,
                     {{"tool_calls", Json::array({{{"index", d.call}, {"id", "call_" + random_hex(24)}, {"type", "function"}, {"function", {{"name", d.text}, {"arguments", ""}}}}})}});
          break;
        case OutputDelta::Kind::call_arguments: send_chunk(reply, index, {{"tool_calls", Json::array({{{"index", d.call}, {"function", {{"arguments", d.text}}}}})}}); break;
      }
    }
    if (c.done) {
      flush_reasoning(reply, index);
      send_chunk(reply, index, {{"reasoning_content", nullptr}}, c.finish, matched_stop(c));
    }
  }

  void end(ChatReply& reply) override {
    if (reply.fields().include_usage) {
      Json chunk = head(reply, "chat.completion.chunk");
      chunk["choices"] = Json::array();
      chunk["usage"] = usage(reply);
      add_round_metrics(reply, chunk);
      reply.exchange().event(dump(chunk));
    }
    reply.exchange().event("[DONE]");
  }

  void failed(ChatReply& reply, const Error& error) override {
    reply.exchange().event(error_event(error));
    reply.exchange().event("[DONE]");
  }

  HttpResponse whole(ChatReply& reply) override {
    Json body = head(reply, "chat.completion");
    body["choices"] = Json::array();
    for (size_t i = 0; i < reply.choices().size(); ++i) {
      ChatChoice& c = *reply.choices()[i];
      body["choices"].push_back({{"index", i}, {"message", message_of(reply, c)}, {"logprobs", reply.options().logprobs ? logprobs_of(reply, c) : Json(nullptr)}, {"finish_reason", c.finish},
                                 {"matched_stop", matched_stop(c)}});
    }
    body["usage"] = usage(reply);
    add_round_metrics(reply, body);
    body["metadata"] = {{"weight_version", "default"}};
    return {.status = 200, .body = dump(body), .content_type = "application/json", .headers = {}};
  }

 private:
  struct Sent {  // of a choice
    bool role = false;
    std::string held_reasoning, frame_begin, frame_end;
  };

  Json head(ChatReply& reply, const char* object) const {
    return {{"id", id_}, {"object", object}, {"created", reply.created()}, {"model", reply.api().shown_model(reply.fields().model)}};
  }

  static Json usage(ChatReply& reply) {
    const ChatUsage u = reply.usage();
    Json details = {{"cached_tokens", u.cached}};
    if (u.media.image > 0) details["image_tokens"] = u.media.image;
    if (u.media.audio > 0) details["audio_tokens"] = u.media.audio;
    if (u.media.video > 0) details["video_tokens"] = u.media.video;
    return {{"prompt_tokens", u.prompt}, {"completion_tokens", u.completion}, {"total_tokens", u.prompt + u.completion},
            {"prompt_tokens_details", details}, {"completion_tokens_details", {{"reasoning_tokens", u.reasoning}}}, {"reasoning_tokens", u.reasoning}};
  }

  static Json matched_stop(const ChatChoice& c) {
    if (c.finish != "stop") return nullptr;
    if (!c.reply.matched_stop().empty()) return c.reply.matched_stop();
    return c.matched_id >= 0 ? Json(c.matched_id) : Json(nullptr);
  }

  static Json logprobs_of(ChatReply& reply, ChatChoice& c) {
    Json content = Json::array();
    for (const TokenEvent& token : std::exchange(c.logprobs, {})) {
      Json entry = reply.api().token_logprob(token.id, token.logprob);
      entry["top_logprobs"] = Json::array();
      for (const TokenLogprob& top : token.top) entry["top_logprobs"].push_back(reply.api().token_logprob(top.id, top.logprob));
      content.push_back(std::move(entry));
    }
    return {{"content", std::move(content)}};
  }

  // The chunk that most of a stream consists of: {"content": text, "reasoning_content": null}, the frame around the text made once.
  void send_content(ChatReply& reply, int32_t index, const std::string& text) {
    if (reply.fields().continuous_usage || reply.api().options.reasoning_alias || !reply.choices()[static_cast<size_t>(index)]->logprobs.empty()) {
      return send_chunk(reply, index, {{"content", text}});
    }
    Sent& sent = sent_[index];
    if (sent.frame_begin.empty()) {
      const std::string place = dump("{text}"), frame = dump(chunk(reply, index, {{"content", "{text}"}, {"reasoning_content", nullptr}}, nullptr, nullptr));
      const size_t at = frame.rfind(place);  // the last: a client's name for the model comes before it
      sent.frame_begin = frame.substr(0, at);
      sent.frame_end = frame.substr(at + place.size());
    }
    std::string data;
    data.reserve(sent.frame_begin.size() + text.size() + sent.frame_end.size() + 8);
    data += sent.frame_begin;
    append_string(data, text);
    data += sent.frame_end;
    reply.exchange().event(std::move(data));
  }

  void send_chunk(ChatReply& reply, int32_t index, Json delta, const Json& finish = nullptr, const Json& matched = nullptr) const {
    reply.exchange().event(dump(chunk(reply, index, std::move(delta), finish, matched)));
  }

  Json chunk(ChatReply& reply, int32_t index, Json delta, const Json& finish, const Json& matched) const {
    if (!delta.contains("tool_calls") && !delta.contains("reasoning_content")) delta["reasoning_content"] = nullptr;
    add_reasoning_alias(reply, delta);
    Json out = head(reply, "chat.completion.chunk");
    if (reply.fields().continuous_usage) out["usage"] = usage(reply);
    ChatChoice& c = *reply.choices()[static_cast<size_t>(index)];
    Json choice = {{"index", index}, {"delta", std::move(delta)}, {"logprobs", nullptr}, {"finish_reason", finish}, {"matched_stop", matched}};
    if (!c.logprobs.empty()) choice["logprobs"] = logprobs_of(reply, c);
    out["choices"] = Json::array({std::move(choice)});
    return out;
  }

  void flush_reasoning(ChatReply& reply, int32_t index) {
    std::string& held = sent_[index].held_reasoning;
    if (!held.empty()) send_chunk(reply, index, {{"reasoning_content", std::exchange(held, {})}});
  }

  static void add_reasoning_alias(ChatReply& reply, Json& message) {
    if (reply.api().options.reasoning_alias && message.contains("reasoning_content")) message["reasoning"] = message["reasoning_content"];
  }

  static Json message_of(ChatReply& reply, const ChatChoice& c) {
    Json message = {{"role", "assistant"}, {"content", c.content}, {"reasoning_content", c.reasoning.empty() ? Json(nullptr) : Json(c.reasoning)}};
    add_reasoning_alias(reply, message);
    const auto& calls = c.reply.parser().calls();
    if (!calls.empty()) {
      message["tool_calls"] = Json::array();
      for (size_t i = 0; i < calls.size(); ++i) {
        message["tool_calls"].push_back({{"id", "call_" + random_hex(24)}, {"type", "function"}, {"index", i}, {"function", {{"name", calls[i].name}, {"arguments", calls[i].arguments}}}});
      }
    }
    return message;
  }

  static void add_round_metrics(ChatReply& reply, Json& into) {
    const std::string& level = reply.api().options.round_metrics;
    if (level == "off" || reply.choices().size() != 1 || reply.choices()[0]->rounds.empty()) return;
    into["metrics"]["speculative_decoding"] = round_metrics(reply.choices()[0]->rounds, reply.api().engine.stats().max_drafts, level == "detailed");
  }

  bool stream_reasoning_;
  std::string id_ = "chatcmpl-" + random_hex(32);
  std::map<int32_t, Sent> sent_;  // by choice
};
}  // namespace

std::shared_ptr<ChatWriter> openai_chat_writer(bool stream_reasoning) { return std::make_shared<OpenAiWriter>(stream_reasoning); }
}  // namespace nibble
