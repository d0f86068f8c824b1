// Shared by the route files of this room.
#pragma once

#include <atomic>
#include <mutex>
#include <random>

#include "engine/reply.h"
#include "server/api.h"
#include "server/metrics.h"

namespace nibble {
// Where requests with media are prepared: decoding takes long, and neither the connections nor the engine should wait for it.
class MediaThreads {
 public:
  MediaThreads();
  ~MediaThreads();
  void post(std::function<void()> work);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

using ExchangePtr = std::shared_ptr<Exchange>;

struct Api::Impl : std::enable_shared_from_this<Api::Impl> {
  ApiOptions options;
  Engine& engine;
  const Tokenizer& tokenizer;
  const ChatTemplate* chat_template;
  OutputMarkers markers;
  Metrics metrics;
  std::atomic<bool> ready{false};
  double started;
  std::atomic<uint64_t> next_seed{0};
  MediaThreads media_threads;

  Impl(ApiOptions o, Engine& e, const Tokenizer& t, const ChatTemplate* c);

  void route(const HttpRequest& request, const ExchangePtr& exchange);
  bool authorized(const HttpRequest& request, bool management) const;

  // Runs `work`; what it throws becomes the response.
  void answering(const ExchangePtr& exchange, const std::function<void()>& work);

  void chat(const Json& body, const HttpRequest& http, const ExchangePtr& exchange);           // api_chat.cpp
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
  };
  ChatPrompt chat_prompt(const Json& body) const;
  void start_chat(const Json& body, const std::string& http_id, const ExchangePtr& exchange, ChatPrompt prompt);  // on the connection's thread
  void fit_prompt(std::vector<int32_t>& prompt) const;  // --allow-auto-truncate
  std::vector<int32_t> raw_prompt(const std::string& text, bool add_bos = true) const;

  // An engine request with everything but its sink; throws Error for what does not fit the context.
  std::unique_ptr<Request> engine_request(std::vector<int32_t> prompt, const GenerationFields& fields, const std::string& id, std::optional<int32_t> default_max_tokens);
  std::string shown_model(const std::string& asked) const;
  Json token_logprob(int32_t id, float logprob) const;  // {"token", "bytes", "logprob"}
};

// Speculation's figures of one reply, as `metrics.speculative_decoding` wants them.
Json round_metrics(const std::vector<DraftRound>& rounds, int32_t max_drafts, bool detailed);
std::string_view finish_text(FinishReason reason);  // "stop", "length", "abort"
}  // namespace nibble
