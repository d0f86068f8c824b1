// POST /v1/completions and /generate: prompts as they are, no template, no parsing.
#include <fmt/format.h>

#include <limits>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "server/api_impl.h"
#include "server/http_text.h"

namespace nibble {
namespace {
constexpr size_t kMaxPrompts = 128;
constexpr float kLowestLogprob = -9999.0f;  // what -inf is written as

struct Token {
  int32_t id;
  float logprob;
  std::vector<TokenLogprob> top;
  size_t text_offset;
};

// All prompts and choices of one request; its index is prompt * n + choice.
class TextReply : public std::enable_shared_from_this<TextReply> {
 public:
  enum class Style { openai, native };

  TextReply(std::shared_ptr<Api::Impl> api, ExchangePtr exchange, Style style, GenerationFields fields, std::vector<std::vector<int32_t>> prompts, int32_t logprobs, bool echo, bool is_list)
      : api_(std::move(api)), exchange_(std::move(exchange)), style_(style), fields_(std::move(fields)), prompts_(std::move(prompts)), logprobs_(logprobs), echo_(echo), is_list_(is_list),
        id_("cmpl-" + random_hex(32)), created_(unix_seconds()), started_(monotonic_seconds()) {
    ReplyOptions options{.skip_special_tokens = fields_.skip_special_tokens, .stop = fields_.stop, .keep_stop = fields_.no_stop_trim, .parse = false, .parser = {}};
    for (size_t i = 0; i < prompts_.size() * static_cast<size_t>(fields_.num_choices); ++i) choices_.push_back(std::make_unique<Choice>(api_->tokenizer, api_->markers, options));
  }

  // When its grammar is there.
  void submit() {
    if (fields_.format.kind == OutputFormat::Kind::text) return submit_with(nullptr);
    api_->media_threads.post([self = shared_from_this()] {
      self->api_->answering(self->exchange_, [&] {
        const auto grammar = self->api_->structured.of_format(self->fields_.format, ThoughtFirst::none);
        self->exchange_->post([self, grammar] { self->api_->answering(self->exchange_, [&] { self->submit_with(grammar); }); });
      });
    });
  }

 private:
  void submit_with(const std::shared_ptr<const Grammar>& grammar) {
    for (size_t p = 0; p < prompts_.size(); ++p) {
      auto request = api_->engine_request(prompts_[p], fields_, prompt_id(p), 16);
      api_->structured.constrain(*request, grammar);
      request->top_logprobs = logprobs_;
      request->prompt_logprobs = echo_ && logprobs_ >= 0;
      const auto self = shared_from_this();
      request->on_token = [self, p](TokenEvent&& event) {
        self->exchange_->post([self, p, event = std::make_shared<TokenEvent>(std::move(event))] { self->on_token(p, std::move(*event)); });
      };
      request->on_prompt_logprobs = [self, p](std::vector<TokenEvent>&& events) {
        self->exchange_->post([self, p, events = std::make_shared<std::vector<TokenEvent>>(std::move(events))] { self->on_prompt(p, *events); });
      };
      auto handle = api_->engine.submit(std::move(request));
      if (!handle) {
        cancel();  // the prompts before it
        throw handle.error();
      }
      handles_.push_back(*handle);
    }
    exchange_->on_disconnect([self = shared_from_this()] { self->cancel(); });
    if (fields_.stream) exchange_->start_events();
  }

  struct Choice {
    Choice(const Tokenizer& tokenizer, const OutputMarkers& markers, const ReplyOptions& options) : reply(tokenizer, markers, options) {}
    Reply reply;
    std::string text;
    std::vector<int32_t> ids;
    std::vector<Token> tokens, unsent;
    bool done = false, started = false;
    FinishReason finish = FinishReason::none;
    int32_t matched_id = -1, cached = 0, generated = 0;
    std::vector<DraftRound> rounds;
    size_t ids_sent = 0;
  };

  std::string prompt_id(size_t p) const { return fields_.rid.empty() || prompts_.size() > 1 ? fmt::format("{}-{}", fields_.rid.empty() ? id_ : fields_.rid, p) : fields_.rid; }
  void cancel() {
    for (const uint64_t handle : handles_) api_->engine.cancel(handle, /*silent=*/true);
  }
  std::string prompt_text(size_t p) const { return api_->tokenizer.decode(prompts_[p], fields_.skip_special_tokens); }

  void on_prompt(size_t p, const std::vector<TokenEvent>& events) {
    for (int32_t c = 0; c < fields_.num_choices; ++c) {
      Choice& choice = *choices_[p * static_cast<size_t>(fields_.num_choices) + static_cast<size_t>(c)];
      size_t offset = 0;
      choice.tokens.push_back({prompts_[p][0], std::numeric_limits<float>::quiet_NaN(), {}, offset});  // the first has no logprob
      for (const TokenEvent& event : events) {
        offset += api_->tokenizer.token_bytes(choice.tokens.back().id).size();
        choice.tokens.push_back({event.id, event.logprob, event.top, offset});
      }
    }
  }

  void on_token(size_t p, TokenEvent&& event) {
    const size_t index = p * static_cast<size_t>(fields_.num_choices) + static_cast<size_t>(event.choice);
    Choice& c = *choices_[index];
    if (c.done) return;
    if (event.error && event.error->code != ErrorCode::cancelled) return fail_all(*event.error);
    if (first_token_ == 0) first_token_ = monotonic_seconds();
    c.cached = event.cached_tokens;
    if (event.round.drafted > 0) c.rounds.push_back(event.round);
    std::vector<OutputDelta> deltas;
    std::string text;
    if (!c.started && echo_) text = prompt_text(p);
    c.started = true;
    bool stopped = false;
    if (event.id >= 0) {
      if (c.ids.empty() && event.choice == 0) api_->metrics.observe_queue_time(event.queue_seconds);
      c.ids.push_back(event.id);
      ++c.generated;
      const bool end_token = event.finish == FinishReason::stop_token;
      if (end_token) c.matched_id = event.id;
      if (!end_token && logprobs_ >= 0) c.unsent.push_back({event.id, event.logprob, std::move(event.top), (echo_ ? prompt_text(p).size() : 0) + c.text.size()});
      if (!end_token) stopped = c.reply.push(event.id, deltas);
    }
    if (stopped || event.finish != FinishReason::none) {
      c.reply.finish(deltas);
      c.done = true;
      c.finish = stopped ? FinishReason::stop_string : event.finish;
      api_->metrics.count_finish(exact_reason(event.finish, stopped));
      ++num_done_;
    }
    for (const OutputDelta& d : deltas) text += d.text;
    c.text += text;
    c.tokens.insert(c.tokens.end(), c.unsent.begin(), c.unsent.end());
    if (fields_.stream && (!text.empty() || c.done)) send(index, c, text);
    if (stopped && fields_.num_choices == 1) api_->engine.cancel(handles_[p], /*silent=*/true);
    if (style_ == Style::openai && fields_.stream) {
      if (!text.empty() || c.done) c.unsent.clear();
    } else {
      c.unsent.clear();
    }
    if (num_done_ == choices_.size()) complete();
  }

  // ---- the OpenAI form ----

  Json legacy_logprobs(const std::vector<Token>& tokens) const {
    if (logprobs_ < 0) return nullptr;
    Json out = {{"tokens", Json::array()}, {"token_logprobs", Json::array()}, {"top_logprobs", Json::array()}, {"text_offset", Json::array()}};
    const auto number = [](float x) { return std::max(x, kLowestLogprob); };
    for (const Token& t : tokens) {
      out["tokens"].push_back(api_->tokenizer.token_bytes(t.id));
      out["token_logprobs"].push_back(t.logprob != t.logprob ? Json(nullptr) : Json(number(t.logprob)));
      Json top = Json::object();
      for (const TokenLogprob& alternative : t.top) top[api_->tokenizer.token_bytes(alternative.id)] = number(alternative.logprob);
      out["top_logprobs"].push_back(t.logprob != t.logprob ? Json(nullptr) : top);
      out["text_offset"].push_back(t.text_offset);
    }
    return out;
  }

  Json matched_stop(const Choice& c) const {
    if (c.finish == FinishReason::stop_string) return c.reply.matched_stop();
    return c.finish == FinishReason::stop_token ? Json(c.matched_id) : Json(nullptr);
  }
  Json head() const { return {{"id", id_}, {"object", "text_completion"}, {"created", created_}, {"model", api_->shown_model(fields_.model)}}; }
  Json usage() const {
    int64_t prompt = 0, completion = 0, cached = 0;
    for (const auto& ids : prompts_) prompt += static_cast<int64_t>(ids.size());
    for (size_t i = 0; i < choices_.size(); ++i) {
      completion += choices_[i]->generated;
      if (i % static_cast<size_t>(fields_.num_choices) == 0) cached += choices_[i]->cached;
    }
    return {{"prompt_tokens", prompt}, {"completion_tokens", completion}, {"total_tokens", prompt + completion}, {"prompt_tokens_details", {{"cached_tokens", cached}}}};
  }

  // ---- the native form ----

  Json native_item(size_t index, const Choice& c) const {
    const size_t p = index / static_cast<size_t>(fields_.num_choices);
    Json finish = nullptr;
    if (c.done) {
      finish = {{"type", finish_text(c.finish)}};
      if (c.finish == FinishReason::length) finish["length"] = c.generated;
      if (c.finish == FinishReason::stop_token || c.finish == FinishReason::stop_string) finish["matched"] = matched_stop(c);
      if (c.finish == FinishReason::abort) finish["message"] = "the request was cancelled";
    }
    Json meta = {{"id", prompt_id(p)}, {"finish_reason", finish}, {"prompt_tokens", prompts_[p].size()}, {"completion_tokens", c.generated}, {"cached_tokens", c.cached},
                 {"weight_version", "default"}, {"e2e_latency", monotonic_seconds() - started_}};
    if (!c.rounds.empty()) {
      const Json figures = round_metrics(c.rounds, api_->engine.stats().max_drafts, false);
      meta["spec_verify_ct"] = figures["num_spec_steps"];
      meta["spec_num_correct_drafts"] = figures["num_accepted_draft_tokens"];
      meta["spec_num_proposed_drafts"] = figures["num_draft_tokens"];
      meta["spec_accept_rate"] = figures["draft_acceptance_rate"];
      meta["spec_accept_length"] = static_cast<double>(c.generated) / static_cast<double>(c.rounds.size());
      meta["spec_correct_drafts_histogram"] = figures["acceptance_histogram"];
    }
    if (logprobs_ >= 0) {
      meta["output_token_logprobs"] = Json::array();
      for (const Token& t : c.tokens) meta["output_token_logprobs"].push_back({std::max(t.logprob, kLowestLogprob), t.id, nullptr});
    }
    Json item = {{"text", c.text}, {"output_ids", c.ids}, {"meta_info", meta}};
    if (is_list_ || choices_.size() > 1) item["index"] = index;
    return item;
  }

  void send(size_t index, Choice& c, const std::string& text) {
    if (style_ == Style::native) {
      Json item = native_item(index, c);
      if (api_->options.incremental_generate) {
        item["text"] = text;
        item["output_ids"] = std::vector<int32_t>(c.ids.begin() + static_cast<int64_t>(c.ids_sent), c.ids.end());
        c.ids_sent = c.ids.size();
      }
      return exchange_->event(dump(item));
    }
    Json chunk = head();
    chunk["choices"] = Json::array({{{"index", index}, {"text", text}, {"logprobs", legacy_logprobs(c.unsent)}, {"finish_reason", c.done ? Json(finish_text(c.finish)) : Json(nullptr)},
                                     {"matched_stop", c.done ? matched_stop(c) : Json(nullptr)}}});
    if (fields_.continuous_usage) chunk["usage"] = usage();
    exchange_->event(dump(chunk));
  }

  void add_round_metrics(Json& into) const {
    const std::string& level = api_->options.round_metrics;
    if (level == "off" || choices_.size() != 1 || choices_[0]->rounds.empty()) return;
    into["metrics"]["speculative_decoding"] = round_metrics(choices_[0]->rounds, api_->engine.stats().max_drafts, level == "detailed");
  }

  void complete() {
    const Json totals = usage();
    api_->metrics.observe_request(first_token_ > 0 ? first_token_ - started_ : 0, monotonic_seconds() - started_, totals["prompt_tokens"], totals["completion_tokens"]);
    if (fields_.stream) {
      if (style_ == Style::openai && fields_.include_usage) {
        Json chunk = head();
        chunk["choices"] = Json::array();
        chunk["usage"] = totals;
        add_round_metrics(chunk);
        exchange_->event(dump(chunk));
      }
      exchange_->event("[DONE]");
      return exchange_->finish();
    }
    Json body;
    if (style_ == Style::native) {
      body = Json::array();
      for (size_t i = 0; i < choices_.size(); ++i) body.push_back(native_item(i, *choices_[i]));
      if (!is_list_ && choices_.size() == 1) body = Json(body[0]);
    } else {
      body = head();
      body["choices"] = Json::array();
      for (size_t i = 0; i < choices_.size(); ++i) {
        const Choice& c = *choices_[i];
        body["choices"].push_back({{"index", i}, {"text", c.text}, {"logprobs", legacy_logprobs(c.tokens)}, {"finish_reason", finish_text(c.finish)}, {"matched_stop", matched_stop(c)}});
      }
      body["usage"] = totals;
      add_round_metrics(body);
    }
    exchange_->respond({.status = 200, .body = dump(body), .content_type = "application/json", .headers = {}});
  }

  void fail_all(const Error& error) {
    for (auto& c : choices_) c->done = true;
    cancel();
    if (!fields_.stream) return exchange_->respond(error_response(error));
    exchange_->event(error_event(error));
    exchange_->event("[DONE]");
    exchange_->finish();
  }

  std::shared_ptr<Api::Impl> api_;
  ExchangePtr exchange_;
  Style style_;
  GenerationFields fields_;
  std::vector<std::vector<int32_t>> prompts_;
  std::vector<uint64_t> handles_;  // of the prompts
  int32_t logprobs_;
  bool echo_, is_list_;
  std::string id_;
  int64_t created_;
  double started_, first_token_ = 0;
  size_t num_done_ = 0;
  std::vector<std::unique_ptr<Choice>> choices_;
};

// A string, strings, ids, or lists of ids.
std::vector<std::vector<int32_t>> read_prompts(const Api::Impl& api, const Fields& fields, const char* key, bool& is_list) {
  const Json* prompt = fields.find(key);
  is_list = false;
  if (!prompt) fields.reject(key, fmt::format("'{}' is required", key));
  if (prompt->is_string()) {
    if (prompt->get_ref<const std::string&>().empty()) fields.reject(key, fmt::format("'{}' must not be empty", key));
    return {api.raw_prompt(prompt->get<std::string>())};
  }
  if (!prompt->is_array() || prompt->empty()) fields.reject(key, fmt::format("'{}' must be a string, an array of strings, an array of token ids or an array of such arrays, and not empty", key));
  if ((*prompt)[0].is_number()) return {fields.ids(key, api.tokenizer.vocab_size())};
  is_list = true;
  if (prompt->size() > kMaxPrompts) fields.reject(key, fmt::format("'{}' holds {} prompts, at most {} are allowed", key, prompt->size(), kMaxPrompts));
  std::vector<std::vector<int32_t>> out;
  for (size_t i = 0; i < prompt->size(); ++i) {
    const Json& one = (*prompt)[i];
    if (one.is_string()) {
      out.push_back(api.raw_prompt(one.get<std::string>()));
    } else {
      out.push_back(token_ids(one, fields.path(fmt::format("{}[{}]", key, i)), api.tokenizer.vocab_size()));
    }
    if (out.back().empty()) fields.reject(fmt::format("{}[{}]", key, i), "a prompt must not be empty");
  }
  return out;
}
}  // namespace

void Api::Impl::completions(const Json& body, const HttpRequest&, const ExchangePtr& exchange) {
  const Fields fields(body);
  GenerationFields generation = read_generation_fields(fields, {}, tokenizer.vocab_size());
  if (options.usage_in_streams && !fields.has("stream_options")) generation.include_usage = true;
  if (fields.has("suffix")) fields.reject("suffix", "'suffix' is not supported");
  if (const auto best_of = fields.integer("best_of", 1, 128); best_of && *best_of != generation.num_choices) fields.reject("best_of", "'best_of' must be absent or equal to 'n'");
  const auto logprobs = fields.integer("logprobs", 0, 20);
  bool is_list = false;
  auto prompts = read_prompts(*this, fields, "prompt", is_list);
  for (auto& prompt : prompts) fit_prompt(prompt);
  std::make_shared<TextReply>(shared_from_this(), exchange, TextReply::Style::openai, std::move(generation), std::move(prompts), logprobs ? static_cast<int32_t>(*logprobs) : -1,
                              fields.boolean("echo").value_or(false), is_list)
      ->submit();
}

void Api::Impl::generate(const Json& body, const HttpRequest&, const ExchangePtr& exchange) {
  const Fields fields(body);
  for (const char* key : {"image_data", "audio_data", "video_data"}) {
    if (fields.has(key)) fields.reject(key, "this build serves text only");
  }
  Json params = fields.has("sampling_params") ? body["sampling_params"] : Json::object();
  if (!params.is_object()) fields.reject("sampling_params", "'sampling_params' must be an object");
  if (!options.preferred_sampling_params.empty()) {
    Json merged = Json::parse(options.preferred_sampling_params);
    merged.update(params);
    params = std::move(merged);
  }
  // The native names of the common fields.
  for (const auto& [native, common] : {std::pair{"max_new_tokens", "max_tokens"}, {"min_new_tokens", "min_tokens"}, {"sampling_seed", "seed"}}) {
    if (!params.contains(native)) continue;
    params[common] = params[native];
    params.erase(native);
  }
  if (!params.contains("max_tokens")) params["max_tokens"] = 128;
  for (const char* key : {"stream", "rid"}) {
    if (fields.has(key)) params[key] = body[key];
  }
  GenerationFields generation = read_generation_fields(Fields(params, "sampling_params"), {}, tokenizer.vocab_size());
  if (fields.has("text") == fields.has("input_ids")) fields.reject("text", "exactly one of 'text' and 'input_ids' is wanted");
  bool is_list = false;
  auto prompts = read_prompts(*this, fields, fields.has("text") ? "text" : "input_ids", is_list);
  for (auto& prompt : prompts) fit_prompt(prompt);
  const bool logprobs = fields.boolean("return_logprob").value_or(false);
  const auto top = static_cast<int32_t>(fields.integer("top_logprobs_num", 0, 20).value_or(0));
  std::make_shared<TextReply>(shared_from_this(), exchange, TextReply::Style::native, std::move(generation), std::move(prompts), logprobs ? top : -1, false, is_list)->submit();
}
}  // namespace nibble
