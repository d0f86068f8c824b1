// One chat reply on its way to the client: tokens go in, the parser takes them apart, and a ChatWriter that knows a wire format sends what comes out. Chat completions,
// responses and messages are three writers of the same reply.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/reply.h"
#include "engine/request.h"
#include "server/api.h"
#include "server/generation_fields.h"
#include "server/http.h"

namespace nibble {
// Soft tokens of a prompt, by what they came from.
struct MediaCounts {
  int64_t image = 0, audio = 0, video = 0;
};

struct ChatUsage {
  int64_t prompt = 0, completion = 0, cached = 0, reasoning = 0;
  MediaCounts media;
};

struct ChatChoice {
  ChatChoice(const Tokenizer& tokenizer, const OutputMarkers& markers, const ReplyOptions& options) : reply(tokenizer, markers, options) {}
  Reply reply;
  int32_t tokens = 0;
  bool done = false;
  std::string content, reasoning;    // all so far, unless it is streamed
  std::string finish;                // when done: stop, length, tool_calls, abort
  int32_t matched_id = -1;           // the end token that stopped it
  std::vector<TokenEvent> logprobs;  // of tokens not yet written, when asked for
  std::vector<DraftRound> rounds;
};

class ChatReply;

// A wire format. Lives as long as its reply and is called on the connection's thread. In a stream: begin, step for every step of a choice (the last with
// choice.done), then end; or failed at any point after begin. Else: step as well, then whole.
class ChatWriter {
 public:
  virtual ~ChatWriter() = default;
  virtual void begin(ChatReply&) {}
  virtual void step(ChatReply& reply, int32_t index, const std::vector<OutputDelta>& deltas) = 0;
  virtual void end(ChatReply& reply) = 0;
  virtual void failed(ChatReply& reply, const Error& error) = 0;
  virtual HttpResponse whole(ChatReply& reply) = 0;
};

struct ChatReplyOptions {
  ReplyOptions reply;
  int32_t num_prompt = 0;
  MediaCounts media;
  bool logprobs = false;
  bool single_call = false;  // the reply ends after its first complete call
};

class ChatReply : public std::enable_shared_from_this<ChatReply> {
 public:
  ChatReply(std::shared_ptr<Api::Impl> api, ExchangePtr exchange, GenerationFields fields, ChatReplyOptions options, std::shared_ptr<ChatWriter> writer);

  void begin(uint64_t engine_handle);  // accepted; before any token
  void on_token(TokenEvent&& event);

  // ---- for writers ----

  const Api::Impl& api() const { return *api_; }
  Exchange& exchange() { return *exchange_; }
  const GenerationFields& fields() const { return fields_; }
  const ChatReplyOptions& options() const { return options_; }
  std::vector<std::unique_ptr<ChatChoice>>& choices() { return choices_; }
  int64_t created() const { return created_; }  // seconds since 1970
  ChatUsage usage() const;

 private:
  std::string finish_of(const ChatChoice& choice, const TokenEvent& event, bool stopped, bool one_call) const;
  void observe_time();
  void complete();
  void fail_all(const Error& error);

  std::shared_ptr<Api::Impl> api_;
  ExchangePtr exchange_;
  GenerationFields fields_;
  ChatReplyOptions options_;
  std::shared_ptr<ChatWriter> writer_;
  uint64_t engine_handle_ = 0;
  int64_t created_;
  double started_, first_token_ = 0, last_token_ = 0;
  int32_t cached_ = 0, num_done_ = 0;
  std::vector<std::unique_ptr<ChatChoice>> choices_;
  std::vector<OutputDelta> deltas_;  // of the token at hand
};

std::shared_ptr<ChatWriter> openai_chat_writer(bool stream_reasoning);  // chat_openai.cpp
}  // namespace nibble
