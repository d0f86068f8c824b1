// The routes: OpenAI's chat and completions, the native ones, health, metrics and administration. Maps HTTP exchanges to engine requests and back.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "server/generation_fields.h"
#include "server/http.h"
#include "server/media_parts.h"
#include "server/metrics.h"
#include "server/request_log.h"
#include "text/chat_template.h"
#include "text/output_parser.h"
#include "text/tokenizer.h"

namespace nibble {
struct ApiOptions {
  std::vector<std::string> served_names;  // the first is shown first
  std::string model_path, tokenizer_path, model_type, architecture, version;
  std::string api_key, admin_api_key;
  bool loopback_only_admin = true;        // without keys, management routes answer loopback clients only
  bool strict_model_name = false;
  int32_t context_length = 0;
  int32_t bos_token_id = 2;
  std::vector<int32_t> stop_ids;          // end tokens
  SamplingDefaults chat_defaults;         // of chat; the other routes start from 1 / 1 / off
  bool reasoning_parser = true, tool_parser = true;
  bool trust_special_tokens_in_text = false;
  std::string default_template_kwargs;    // JSON object, "" for none
  std::string server_info;                // JSON object with every resolved flag, secrets starred
  std::string round_metrics = "off";      // summary or detailed: speculation's figures in replies
  std::string root_path;                  // prefix that is taken off paths, "/x"
  std::string preferred_sampling_params;  // JSON object of defaults of /generate, "" for none
  bool reasoning_alias = false;           // reasoning_content also under the name reasoning
  bool usage_in_streams = false;          // where a request has no stream_options
  bool incremental_generate = false;      // /generate streams what is new instead of all so far
  bool truncate_prompts = false;          // too long prompts lose their tail, too large max_tokens is lowered
  bool repetition_guard = false;          // chat replies that loop without end are stopped
  bool structured_output = true;          // false: requests that need a grammar are refused
  int max_json_whitespace = 32;           // in a row, in JSON that a grammar describes; 0: none but ", " and ": "
  MetricsOptions metrics;
  RequestLogOptions request_log;
  MediaOptions media;
  double load_seconds = 0;                // of the weights; with the next four for /server_info
  int64_t full_page_bytes = 0, sliding_page_bytes = 0;  // of the KV cache
  int64_t weight_bytes = 0, device_bytes = 0;  // device: held of a GPU's own memory, KV cache included
  double stuck_seconds = 20;              // a step that takes longer makes /health fail, a token that does not come /health_generate
  uint64_t random_seed = 0;               // base of the seeds of requests without one
};

// starting and draining: requests that generate are refused. leaving: they are served, but /health and /ready tell balancers to send no more.
enum class ApiPhase { starting, ready, leaving, draining };

class Api {
 public:
  // All must outlive the Api. `chat_template` may be null: chat is then refused with the reason.
  Api(ApiOptions options, Engine& engine, const Tokenizer& tokenizer, const ChatTemplate* chat_template);
  ~Api();

  void handle(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void set_phase(ApiPhase phase);  // at first: starting

  struct Impl;

 private:
  std::shared_ptr<Impl> impl_;
};
}  // namespace nibble
