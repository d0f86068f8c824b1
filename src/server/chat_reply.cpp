#include "server/chat_reply.h"

#include "base/clock.h"
#include "server/api_impl.h"
#include "server/http_text.h"

namespace nibble {
ChatReply::ChatReply(std::shared_ptr<Api::Impl> api, ExchangePtr exchange, GenerationFields fields, ChatReplyOptions options, std::shared_ptr<ChatWriter> writer)
    : api_(std::move(api)), exchange_(std::move(exchange)), fields_(std::move(fields)), options_(std::move(options)), writer_(std::move(writer)), created_(unix_seconds()),
      started_(monotonic_seconds()) {
  for (int32_t i = 0; i < fields_.num_choices; ++i) choices_.push_back(std::make_unique<ChatChoice>(api_->tokenizer, api_->markers, options_.reply));
}

void ChatReply::begin(uint64_t engine_handle) {
  engine_handle_ = engine_handle;
  if (!fields_.stream) return;
  exchange_->start_events();
  writer_->begin(*this);
}

void ChatReply::on_token(TokenEvent&& event) {
  ChatChoice& c = *choices_[static_cast<size_t>(event.choice)];
  if (c.done) return;
  cached_ = std::max(cached_, event.cached_tokens);
  if (event.round.drafted > 0) c.rounds.push_back(event.round);
  if (event.error && event.error->code != ErrorCode::cancelled) return fail_all(*event.error);
  std::vector<OutputDelta>& deltas = deltas_;
  deltas.clear();
  bool stopped = false;
  if (event.id >= 0) {
    observe_time();
    if (++c.tokens == 1 && event.choice == 0) api_->metrics.observe_queue_time(event.queue_seconds);
    const bool end_token = event.finish == FinishReason::stop_token;
    if (end_token) {
      c.matched_id = event.id;
    } else {
      stopped = c.reply.push(event.id, deltas);
    }
  }
  const FinishReason finish = event.finish;
  const int32_t choice = event.choice;
  const bool one_call_is_enough = options_.single_call && c.reply.parser().any_complete_call() && !c.reply.parser().any_incomplete_call();
  if (stopped || one_call_is_enough || finish != FinishReason::none) {
    c.reply.finish(deltas);
    c.done = true;
    c.finish = finish_of(c, event, stopped, one_call_is_enough);
    ++num_done_;
    api_->metrics.count_finish(c.finish == "tool_calls" ? "tool_calls" : exact_reason(finish, stopped));
  }
  if (options_.logprobs && event.id >= 0 && finish != FinishReason::stop_token) c.logprobs.push_back(std::move(event));
  for (const OutputDelta& d : deltas) {
    if (fields_.stream) break;
    if (d.kind == OutputDelta::Kind::content) c.content += d.text;
    if (d.kind == OutputDelta::Kind::reasoning) c.reasoning += d.text;
  }
  writer_->step(*this, choice, deltas);
  if (num_done_ == static_cast<int32_t>(choices_.size())) {
    if (stopped || one_call_is_enough) api_->engine.cancel(engine_handle_, /*silent=*/true);
    complete();
  }
}

std::string ChatReply::finish_of(const ChatChoice& c, const TokenEvent& event, bool stopped, bool one_call) const {
  if (event.finish == FinishReason::abort) return "abort";
  if ((event.finish == FinishReason::length || event.finish == FinishReason::repetition) && !stopped && !one_call) return "length";
  const OutputParser& parser = c.reply.parser();
  return parser.any_complete_call() && !parser.any_incomplete_call() ? "tool_calls" : "stop";
}

void ChatReply::observe_time() {
  const double now = monotonic_seconds();
  if (first_token_ == 0) {
    first_token_ = now;
  } else {
    api_->metrics.observe_token_gap((now - last_token_) / static_cast<double>(choices_.size()));
  }
  last_token_ = now;
}

ChatUsage ChatReply::usage() const {
  ChatUsage usage{.prompt = options_.num_prompt, .completion = 0, .cached = cached_, .reasoning = 0, .media = options_.media};
  for (const auto& c : choices_) {
    usage.completion += c->tokens;
    usage.reasoning += c->reply.reasoning_tokens();
  }
  return usage;
}

void ChatReply::complete() {
  const ChatUsage all = usage();
  api_->metrics.observe_request(first_token_ > 0 ? first_token_ - started_ : 0, monotonic_seconds() - started_, all.prompt, all.completion);
  if (!fields_.stream) return exchange_->respond(writer_->whole(*this));
  writer_->end(*this);
  exchange_->finish();
}

void ChatReply::fail_all(const Error& error) {
  for (auto& c : choices_) c->done = true;
  api_->engine.cancel(engine_handle_, /*silent=*/true);
  if (!fields_.stream) return exchange_->respond(error_response(error));
  writer_->failed(*this, error);
  exchange_->finish();
}
}  // namespace nibble
