// Shared by the route files of this room.
#pragma once

#include <atomic>
#include <mutex>
#include <random>

#include "engine/reply.h"
#include "server/api.h"
#include "server/metrics.h"
#include "server/structured_output.h"

namespace nibble {
// Where large requests and those with media or grammars are prepared: parsing, decoding and compiling take long, and neither the connections, many of which share a
// thread, nor the engine should wait for them.
class MediaThreads {
 public:
  MediaThreads();
  ~MediaThreads();
  void post(std::function<void()> work);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

constexpr size_t kLargeBodyBytes = 256 << 10;

class ChatWriter;

struct Api::Impl : std::enable_shared_from_this<Api::Impl> {
  ApiOptions options;
  Engine& engine;
  const Tokenizer& tokenizer;
  const ChatTemplate* chat_template;
  OutputMarkers markers;
  Metrics metrics;
  StructuredOutput structured;
  RequestLog request_log;
  std::atomic<ApiPhase> phase{ApiPhase::starting};
  std::atomic<double> ready_seconds{0};  // from exec until ready; 0: not yet
  std::atomic<uint64_t> next_seed{0};
  MediaThreads media_threads;

  Impl(ApiOptions o, Engine& e, const Tokenizer& t, const ChatTemplate* c);

  void route(const HttpRequest& request, const ExchangePtr& exchange);
  void answer(const Json& body, const HttpRequest& request, const ExchangePtr& exchange);  // POST, once the body is parsed
  void look_up(const std::string& path, const ExchangePtr& exchange);  // GET; api_info.cpp
  void health_generate(const ExchangePtr& exchange);
  bool authorized(const HttpRequest& request, bool management) const;

  // Runs `work`; what it throws becomes the response.
  void answering(const ExchangePtr& exchange, const std::function<void()>& work);

  void chat(const Json& body, const HttpRequest& http, const ExchangePtr& exchange, std::shared_ptr<ChatWriter> writer = nullptr);  // api_chat.cpp; no writer: OpenAI's chat completions
  void responses(const Json& body, const HttpRequest& http, const ExchangePtr& exchange);     // api_responses.cpp
  void messages(const Json& body, const HttpRequest& http, const ExchangePtr& exchange);      // api_messages.cpp
  HttpResponse count_message_tokens(const Json& body) const;
  void completions(const Json& body, const HttpRequest& http, const ExchangePtr& exchange);    // api_completions.cpp
  void generate(const Json& body, const HttpRequest& http, const ExchangePtr& exchange);       // api_generate.cpp
  HttpResponse tokenize(const Json& body) const;                                               // api_text.cpp
  HttpResponse detokenize(const Json& body) const;
  HttpResponse parse_function_call(const Json& body) const;
  HttpResponse separate_reasoning(const Json& body) const;

  // The prompt of a chat request, with its spans of trusted text.
  struct ChatPrompt {
    std::vector<int32_t> ids;
    bool opens_thinking = false;
    std::vector<SoftTokens> media;
    std::shared_ptr<const Grammar> grammar;
  };
  ChatPrompt chat_prompt(const Json& body) const;
  std::shared_ptr<const Grammar> chat_grammar(const Json& body, const ChatPrompt& prompt);     // blocks while it compiles
  void start_chat(const Json& body, const std::string& http_id, const ExchangePtr& exchange, ChatPrompt prompt, std::shared_ptr<ChatWriter> writer);  // on the connection's thread
  void fit_prompt(std::vector<int32_t>& prompt) const;  // --allow-auto-truncate
  std::vector<int32_t> raw_prompt(const std::string& text, bool add_bos = true) const;

  // An engine request with everything but its sink; throws Error for what does not fit the context.
  std::unique_ptr<Request> engine_request(std::vector<int32_t> prompt, const GenerationFields& fields, const std::string& id, std::optional<int32_t> default_max_tokens);
  std::string shown_model(const std::string& asked) const;
  Json token_logprob(int32_t id, float logprob) const;  // {"token", "bytes", "logprob"}
};

// Counts the exchange as active and its status as one of `endpoint`.
ExchangePtr tracked_exchange(ExchangePtr inner, std::shared_ptr<Api::Impl> api, std::string endpoint);

// Puts errors into Anthropic's shape.
ExchangePtr messages_exchange(ExchangePtr inner, const std::string& id);

// Speculation's figures of one reply, as `metrics.speculative_decoding` wants them.
Json round_metrics(const std::vector<DraftRound>& rounds, int32_t max_drafts, bool detailed);
std::string_view finish_text(FinishReason reason);  // "stop", "length", "abort"
std::string exact_reason(FinishReason reason, bool stopped);  // for metrics; `stopped`: by a stop string
}  // namespace nibble
