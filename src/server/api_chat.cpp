// POST /v1/chat/completions.
#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <set>

#include "base/clock.h"
#include "base/log.h"
#include "media/resize.h"
#include "server/api_impl.h"
#include "server/http_text.h"
#include "text/chat_messages.h"

namespace nibble {
namespace {
// tools, checked; absent or empty: null.
Json read_tools(const Fields& fields) {
  const Json* tools = fields.find("tools");
  if (!tools) return nullptr;
  if (!tools->is_array()) fields.reject("tools", "'tools' must be an array");
  std::set<std::string> names;
  for (size_t i = 0; i < tools->size(); ++i) {
    const std::string path = fmt::format("tools[{}]", i);
    const Fields tool((*tools)[i], path);
    if (tool.string("type").value_or("") != "function") tool.reject("type", "only tools of the type function are supported");
    const Json* function = tool.find("function");
    if (!function) tool.reject("function", "a tool must have a function");
    const Fields f(*function, path + ".function");
    const std::string name = f.string("name").value_or("");
    if (name.empty() || name.size() > 128 || name.find_first_of("{}<>|\"()[], \n\t\r") != std::string::npos) {
      f.reject("name", "a function's name must have 1 to 128 characters, none of { } < > | \" ( ) [ ] , or white space");
    }
    if (!names.insert(name).second) f.reject("name", fmt::format("the function '{}' is declared twice", name));
    if (const Json* parameters = f.find("parameters"); parameters && !parameters->is_object()) f.reject("parameters", "'parameters' must be an object");
    if (f.boolean("strict").value_or(false)) f.reject("strict", "strict tools need structured output, which is not available in this build");
  }
  return tools->empty() ? Json(nullptr) : *tools;
}

// Whether calls are parsed; refuses the choices that need structured output.
bool read_tool_choice(const Fields& fields, const Json& tools) {
  const Json* choice = fields.find("tool_choice");
  if (!choice) return !tools.is_null();
  if (choice->is_string()) {
    const std::string text = *choice;
    if (text == "none") return false;
    if (text == "auto") return !tools.is_null();
    if (text != "required") fields.reject("tool_choice", fmt::format("unknown tool_choice '{}'; wanted none, auto, required or a function", text));
    if (tools.is_null()) fields.reject("tool_choice", "'tool_choice' is required, but there are no tools");
  } else {
    const Fields named(*choice, "tool_choice");
    const Json* function = named.find("function");
    if (named.string("type").value_or("") != "function" || !function) fields.reject("tool_choice", "'tool_choice' must be none, auto, required or {type: function, function: {name}}");
    const std::string name = Fields(*function, "tool_choice.function").string("name").value_or("");
    bool known = false;
    for (const Json& tool : tools.is_null() ? Json::array() : tools) known = known || tool["function"]["name"] == name;
    if (!known) fields.reject("tool_choice", fmt::format("'tool_choice' names the function '{}', which is not among the tools", name));
  }
  fields.reject("tool_choice", "forced tool calls need structured output, which is not available in this build; use auto");
}

Json template_kwargs(const Fields& fields, const ApiOptions& options) {
  Json kwargs = options.default_template_kwargs.empty() ? Json::object() : Json::parse(options.default_template_kwargs);
  std::set<std::string> own;
  if (const Json* given = fields.find("chat_template_kwargs")) {
    if (!given->is_object()) fields.reject("chat_template_kwargs", "'chat_template_kwargs' must be an object");
    if (given->contains("chat_template")) fields.reject("chat_template_kwargs.chat_template", "a request may not bring its own chat template");
    for (const auto& [key, value] : given->items()) {
      kwargs[key] = value;
      own.insert(key);
    }
  }
  if (fields.has("chat_template")) fields.reject("chat_template", "a request may not bring its own chat template");
  std::optional<bool> thinking;
  const auto read_effort = [&](const Json& effort, const std::string& param) {
    static const std::set<std::string> kKnown{"none", "minimal", "low", "medium", "high", "xhigh", "max"};
    if (effort.is_string() && kKnown.contains(effort.get<std::string>())) {
      thinking = effort != "none";
    } else if (effort.is_number() && effort.get<double>() >= 0 && effort.get<double>() <= 0.99) {
      thinking = true;
    } else {
      fields.reject(param, "the effort must be one of none, minimal, low, medium, high, xhigh, max, or a number from 0 to 0.99");
    }
    kwargs["reasoning_effort"] = effort;
  };
  if (const Json* effort = fields.find("reasoning_effort")) read_effort(*effort, "reasoning_effort");
  if (const Json* reasoning = fields.find("reasoning")) {
    const Fields r(*reasoning, "reasoning");
    if (const Json* effort = r.find("effort")) read_effort(*effort, "reasoning.effort");
    if (const auto enabled = r.boolean("enabled")) thinking = *enabled;
  }
  if (thinking && !own.contains("enable_thinking")) kwargs["enable_thinking"] = *thinking;
  return kwargs;
}

// Soft tokens of a prompt, by what they came from.
struct MediaCounts {
  int64_t image = 0, audio = 0, video = 0;
};

// One chat completion from its first token to its last byte. Lives on the connection's thread.
class ChatReply : public std::enable_shared_from_this<ChatReply> {
 public:
  ChatReply(std::shared_ptr<Api::Impl> api, ExchangePtr exchange, GenerationFields fields, int32_t num_prompt, MediaCounts media, ReplyOptions options, bool want_logprobs, bool stream_reasoning, bool single_call)
      : api_(std::move(api)), exchange_(std::move(exchange)), fields_(std::move(fields)), num_prompt_(num_prompt), media_(media), want_logprobs_(want_logprobs), stream_reasoning_(stream_reasoning),
        single_call_(single_call), id_("chatcmpl-" + random_hex(32)), created_(unix_seconds()), started_(monotonic_seconds()) {
    for (int32_t i = 0; i < fields_.num_choices; ++i) choices_.push_back(std::make_unique<Choice>(api_->tokenizer, api_->markers, options));
  }

  uint64_t engine_handle = 0;

  void on_token(TokenEvent&& event) {
    Choice& c = *choices_[static_cast<size_t>(event.choice)];
    if (c.done) return;
    cached_ = std::max(cached_, event.cached_tokens);
    if (event.round.drafted > 0) c.rounds.push_back(event.round);
    std::vector<OutputDelta> deltas;
    bool stopped = false;
    if (event.id >= 0) {
      observe_time();
      ++c.tokens;
      const bool end_token = event.finish == FinishReason::stop_token;
      if (end_token) c.matched_id = event.id;
      if (!end_token || fields_.no_stop_trim) {
        if (want_logprobs_ && !end_token) c.logprobs.push_back(logprob_entry(event));
        if (!end_token) stopped = c.reply.push(event.id, deltas);
      }
    }
    const bool one_call_is_enough = single_call_ && c.reply.parser().any_complete_call() && !c.reply.parser().any_incomplete_call();
    if (event.error && event.error->code != ErrorCode::cancelled) return fail_all(*event.error);
    if (stopped || one_call_is_enough || event.finish != FinishReason::none) {
      c.reply.finish(deltas);
      c.done = true;
      c.finish = finish_of(c, event, stopped, one_call_is_enough);
      ++num_done_;
    }
    deliver(event.choice, c, deltas);
    if (num_done_ == static_cast<int32_t>(choices_.size())) {
      if (stopped || one_call_is_enough) api_->engine.cancel(engine_handle, /*silent=*/true);
      complete();
    }
  }

 private:
  struct Choice {
    Choice(const Tokenizer& tokenizer, const OutputMarkers& markers, const ReplyOptions& options) : reply(tokenizer, markers, options) {}
    Reply reply;
    int32_t tokens = 0;
    bool done = false, role_sent = false;
    std::string content, reasoning, finish, held_reasoning;
    Json logprobs = Json::array(), pending_calls;
    std::vector<std::string> call_ids;
    int32_t matched_id = -1;
    std::vector<DraftRound> rounds;
  };

  Json logprob_entry(const TokenEvent& event) const {
    Json entry = api_->token_logprob(event.id, event.logprob);
    entry["top_logprobs"] = Json::array();
    for (const TokenLogprob& top : event.top) entry["top_logprobs"].push_back(api_->token_logprob(top.id, top.logprob));
    return entry;
  }

  static std::string finish_of(const Choice& c, const TokenEvent& event, bool stopped, bool one_call) {
    if (event.finish == FinishReason::abort) return "abort";
    if (event.finish == FinishReason::length && !stopped && !one_call) return "length";
    const OutputParser& parser = c.reply.parser();
    return parser.any_complete_call() && !parser.any_incomplete_call() ? "tool_calls" : "stop";
  }

  Json matched_stop(const Choice& c) const {
    if (c.finish != "stop") return nullptr;
    if (!c.reply.matched_stop().empty()) return c.reply.matched_stop();
    return c.matched_id >= 0 ? Json(c.matched_id) : Json(nullptr);
  }

  void observe_time() {
    const double now = monotonic_seconds();
    if (first_token_ == 0) {
      first_token_ = now;
    } else {
      api_->metrics.observe_token_gap((now - last_token_) / static_cast<double>(choices_.size()));
    }
    last_token_ = now;
  }

  Json usage() const {
    int64_t completion = 0, reasoning = 0;
    for (const auto& c : choices_) {
      completion += c->tokens;
      reasoning += c->reply.reasoning_tokens();
    }
    Json details = {{"cached_tokens", cached_}};
    if (media_.image > 0) details["image_tokens"] = media_.image;
    if (media_.audio > 0) details["audio_tokens"] = media_.audio;
    if (media_.video > 0) details["video_tokens"] = media_.video;
    return {{"prompt_tokens", num_prompt_}, {"completion_tokens", completion}, {"total_tokens", num_prompt_ + completion},
            {"prompt_tokens_details", details}, {"completion_tokens_details", {{"reasoning_tokens", reasoning}}}, {"reasoning_tokens", reasoning}};
  }

  Json chunk_head() const {
    Json chunk = {{"id", id_}, {"object", "chat.completion.chunk"}, {"created", created_}, {"model", api_->shown_model(fields_.model)}};
    if (fields_.continuous_usage) chunk["usage"] = usage();
    return chunk;
  }

  void send_chunk(int32_t index, Choice& c, Json delta, const Json& finish = nullptr, const Json& matched = nullptr) {
    if (!delta.contains("tool_calls") && !delta.contains("reasoning_content")) delta["reasoning_content"] = nullptr;
    add_reasoning_alias(delta);
    Json chunk = chunk_head();
    Json choice = {{"index", index}, {"delta", std::move(delta)}, {"logprobs", nullptr}, {"finish_reason", finish}, {"matched_stop", matched}};
    if (want_logprobs_ && !c.logprobs.empty() && c.role_sent) {
      choice["logprobs"] = {{"content", std::exchange(c.logprobs, Json::array())}};
    }
    chunk["choices"] = Json::array({std::move(choice)});
    exchange_->event(dump(chunk));
  }

  void deliver(int32_t index, Choice& c, const std::vector<OutputDelta>& deltas) {
    if (!fields_.stream) {
      for (const OutputDelta& d : deltas) {
        if (d.kind == OutputDelta::Kind::content) c.content += d.text;
        if (d.kind == OutputDelta::Kind::reasoning) c.reasoning += d.text;
      }
      return;
    }
    if (!c.role_sent) {
      send_chunk(index, c, {{"role", "assistant"}, {"content", ""}, {"reasoning_content", nullptr}});
      c.role_sent = true;
    }
    for (const OutputDelta& d : deltas) {
      if (d.kind != OutputDelta::Kind::reasoning) flush_reasoning(index, c);
      switch (d.kind) {
        case OutputDelta::Kind::content: send_chunk(index, c, {{"content", d.text}}); break;
        case OutputDelta::Kind::reasoning:
          c.held_reasoning += d.text;
          if (stream_reasoning_) flush_reasoning(index, c);
          break;
        case OutputDelta::Kind::call_begin:
          send_chunk(index, c, {{"tool_calls", Json::array({{{"index", d.call}, {"id", "call_" + random_hex(24)}, {"type", "function"}, {"function", {{"name", d.text}, {"arguments", ""}}}}})}});
          break;
        case OutputDelta::Kind::call_arguments:
          send_chunk(index, c, {{"tool_calls", Json::array({{{"index", d.call}, {"function", {{"arguments", d.text}}}}})}});
          break;
      }
    }
    if (c.done) {
      flush_reasoning(index, c);
      send_chunk(index, c, {{"reasoning_content", nullptr}}, c.finish, matched_stop(c));
    }
  }

  void add_reasoning_alias(Json& message) const {
    if (api_->options.reasoning_alias && message.contains("reasoning_content")) message["reasoning"] = message["reasoning_content"];
  }

  void flush_reasoning(int32_t index, Choice& c) {
    if (!c.held_reasoning.empty()) send_chunk(index, c, {{"reasoning_content", std::exchange(c.held_reasoning, {})}});
  }

  Json message_of(const Choice& c) const {
    Json message = {{"role", "assistant"}, {"content", c.content}, {"reasoning_content", c.reasoning.empty() ? Json(nullptr) : Json(c.reasoning)}};
    add_reasoning_alias(message);
    const auto& calls = c.reply.parser().calls();
    if (!calls.empty()) {
      message["tool_calls"] = Json::array();
      for (size_t i = 0; i < calls.size(); ++i) {
        message["tool_calls"].push_back({{"id", "call_" + random_hex(24)}, {"type", "function"}, {"index", i}, {"function", {{"name", calls[i].name}, {"arguments", calls[i].arguments}}}});
      }
    }
    return message;
  }

  void add_round_metrics(Json& into) const {
    const std::string& level = api_->options.round_metrics;
    if (level == "off" || choices_.size() != 1 || choices_[0]->rounds.empty()) return;
    into["metrics"]["speculative_decoding"] = round_metrics(choices_[0]->rounds, api_->engine.stats().max_drafts, level == "detailed");
  }

  void complete() {
    int64_t tokens = 0;
    for (const auto& c : choices_) tokens += c->tokens;
    api_->metrics.observe_request(first_token_ > 0 ? first_token_ - started_ : 0, monotonic_seconds() - started_, num_prompt_, tokens);
    if (fields_.stream) {
      if (fields_.include_usage) {
        Json chunk = chunk_head();
        chunk["choices"] = Json::array();
        chunk["usage"] = usage();
        add_round_metrics(chunk);
        exchange_->event(dump(chunk));
      }
      exchange_->event("[DONE]");
      return exchange_->finish();
    }
    Json body = {{"id", id_}, {"object", "chat.completion"}, {"created", created_}, {"model", api_->shown_model(fields_.model)}, {"choices", Json::array()}};
    for (size_t i = 0; i < choices_.size(); ++i) {
      Choice& c = *choices_[i];
      body["choices"].push_back({{"index", i}, {"message", message_of(c)}, {"logprobs", want_logprobs_ ? Json{{"content", c.logprobs}} : Json(nullptr)}, {"finish_reason", c.finish},
                                 {"matched_stop", matched_stop(c)}});
    }
    body["usage"] = usage();
    add_round_metrics(body);
    body["metadata"] = {{"weight_version", "default"}};
    exchange_->respond({.status = 200, .body = dump(body), .content_type = "application/json", .headers = {}});
  }

  void fail_all(const Error& error) {
    for (auto& c : choices_) c->done = true;
    api_->engine.cancel(engine_handle, /*silent=*/true);
    if (!fields_.stream) return exchange_->respond(error_response(error));
    exchange_->event(error_event(error));
    exchange_->event("[DONE]");
    exchange_->finish();
  }

  std::shared_ptr<Api::Impl> api_;
  ExchangePtr exchange_;
  GenerationFields fields_;
  int32_t num_prompt_;
  MediaCounts media_;
  bool want_logprobs_, stream_reasoning_, single_call_;
  std::string id_;
  int64_t created_;
  double started_, first_token_ = 0, last_token_ = 0;
  int32_t cached_ = 0, num_done_ = 0;
  std::vector<std::unique_ptr<Choice>> choices_;
};
}  // namespace

Api::Impl::ChatPrompt Api::Impl::chat_prompt(const Json& body) const {
  const Fields fields(body);
  if (!chat_template) fields.reject("messages", "this model has no chat template; start the server with --chat-template, or use /v1/completions");
  Json messages = fields.has("messages") ? body["messages"] : Json(nullptr);
  if (messages.is_null()) throw Error(ErrorCode::invalid_argument, "'messages' is required", "messages");
  const auto media = value_or_raise(normalize_messages(messages));
  const auto budget = fields.integer("image_soft_tokens", 70, 1120);
  if (budget && !is_soft_token_budget(*budget)) fields.reject("image_soft_tokens", "'image_soft_tokens' must be 70, 140, 280, 560 or 1120");
  std::vector<PreparedMedia> prepared = prepare_media(media, options.media, static_cast<int32_t>(budget.value_or(0)));
  const Json tools = read_tools(fields);
  const bool with_tools = read_tool_choice(fields, tools);
  const Json kwargs = template_kwargs(fields, options);
  ChatTemplate::Options render{.tools = with_tools && !tools.is_null() ? &tools : nullptr, .kwargs = &kwargs};
  render.continue_final_message = fields.boolean("continue_final_message").value_or(false);
  render.add_generation_prompt = fields.boolean("add_generation_prompt").value_or(true);
  MarkedText prompt = value_or_raise(chat_template->render(messages, render));
  if (!prepared.empty()) prompt = spell_out_videos(prompt, prepared);
  ChatPrompt out;
  const TextSpan everything{0, prompt.text.size()};
  out.ids = tokenizer.encode_marked(prompt.text, options.trust_special_tokens_in_text ? std::span(&everything, 1) : std::span<const TextSpan>(prompt.trusted));
  if (fields.has("input_ids")) out.ids = fields.ids("input_ids", tokenizer.vocab_size());
  out.opens_thinking = prompt_opens_thinking(prompt.text);
  out.media = expand_media(out.ids, std::move(prepared), options.media);
  return out;
}

namespace {
bool has_media(const Json& body) {
  const auto messages = body.find("messages");
  if (messages == body.end() || !messages->is_array()) return false;
  for (const Json& message : *messages) {
    if (!message.is_object() || !message.contains("content") || !message["content"].is_array()) continue;
    for (const Json& part : message["content"]) {
      if (part.is_object() && part.contains("type") && part["type"] != "text") return true;
    }
  }
  return false;
}
}  // namespace

void Api::Impl::chat(const Json& body, const HttpRequest& http, const ExchangePtr& exchange) {
  if (!has_media(body)) return start_chat(body, http.id, exchange, chat_prompt(body));
  media_threads.post([self = shared_from_this(), body, id = http.id, exchange] {
    self->answering(exchange, [&] {
      auto prompt = std::make_shared<ChatPrompt>(self->chat_prompt(body));
      exchange->post([=] { self->answering(exchange, [&] { self->start_chat(body, id, exchange, std::move(*prompt)); }); });
    });
  });
}

void Api::Impl::start_chat(const Json& body, const std::string& http_id, const ExchangePtr& exchange, ChatPrompt prompt) {
  const Fields fields(body);
  GenerationFields generation = read_generation_fields(fields, options.chat_defaults, tokenizer.vocab_size());
  if (options.usage_in_streams && !fields.has("stream_options")) generation.include_usage = true;
  const bool logprobs = fields.boolean("logprobs").value_or(false);
  const auto top_logprobs = fields.integer("top_logprobs", 0, 20);
  if (top_logprobs && !logprobs) fields.reject("top_logprobs", "'top_logprobs' needs 'logprobs' to be true");
  const bool with_tools = read_tool_choice(fields, read_tools(fields));

  ReplyOptions reply;
  reply.skip_special_tokens = generation.skip_special_tokens;
  reply.stop = generation.stop;
  reply.keep_stop = generation.no_stop_trim;
  reply.parser = {.reasoning = options.reasoning_parser && fields.boolean("separate_reasoning").value_or(true), .tools = options.tool_parser && with_tools, .starts_thinking = prompt.opens_thinking};
  if (prompt.media.empty()) fit_prompt(prompt.ids);
  const auto num_prompt = static_cast<int32_t>(prompt.ids.size());
  auto request = engine_request(std::move(prompt.ids), generation, generation.rid.empty() ? http_id + "-" + random_hex(8) : generation.rid, std::nullopt);
  MediaCounts counts;
  for (const SoftTokens& m : prompt.media) (m.kind == SoftTokens::Kind::image ? counts.image : m.kind == SoftTokens::Kind::video ? counts.video : counts.audio) += m.count;
  request->media = std::move(prompt.media);
  if (logprobs) request->top_logprobs = static_cast<int32_t>(top_logprobs.value_or(0));
  const bool stream = generation.stream;
  const auto state = std::make_shared<ChatReply>(shared_from_this(), exchange, std::move(generation), num_prompt, counts, reply, logprobs,
                                                 fields.boolean("stream_reasoning").value_or(true), !fields.boolean("parallel_tool_calls").value_or(true));
  request->on_token = [exchange, state](TokenEvent&& event) {
    exchange->post([state, event = std::make_shared<TokenEvent>(std::move(event))] { state->on_token(std::move(*event)); });
  };
  const uint64_t handle = value_or_raise(engine.submit(std::move(request)));
  state->engine_handle = handle;  // before any event: they are taken on this thread, later
  exchange->on_disconnect([self = shared_from_this(), handle] { self->engine.cancel(handle, /*silent=*/true); });
  if (stream) exchange->start_events();
}
}  // namespace nibble
