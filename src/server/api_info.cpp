// What GET answers: health, metrics, models, the server's state.
#include <fmt/format.h>

#include <algorithm>
#include <mutex>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/process.h"
#include "server/api_impl.h"
#include "server/http_text.h"
#include "server/openapi.h"

namespace nibble {
namespace {
HttpResponse json_response(const Json& body) { return {.status = 200, .body = dump(body), .content_type = "application/json", .headers = {}}; }
HttpResponse text_response(int status, std::string text) { return {.status = status, .body = std::move(text), .content_type = "text/plain; charset=utf-8", .headers = {}}; }

// For two threads that race to answer; lets the exchange go with the first.
class AnswerOnce {
 public:
  explicit AnswerOnce(ExchangePtr exchange) : exchange_(std::move(exchange)) {}
  bool answer(int status) {
    ExchangePtr waiting;
    {
      const std::lock_guard lock(mutex_);
      waiting.swap(exchange_);
    }
    if (waiting) waiting->respond(text_response(status, ""));
    return waiting != nullptr;
  }

 private:
  std::mutex mutex_;
  ExchangePtr exchange_;
};

Json model_json(const std::string& name, int32_t context_length) {
  return {{"id", name}, {"object", "model"}, {"created", unix_seconds()}, {"owned_by", "nibble"}, {"root", name}, {"parent", nullptr}, {"max_model_len", context_length}};
}
}  // namespace

// 200 once a token has been made, or when one was just now; 503 when none comes in time.
void Api::Impl::health_generate(const ExchangePtr& exchange) {
  constexpr double kRecent = 1;
  if (phase != ApiPhase::ready) return exchange->respond(text_response(503, ""));
  if (const EngineStats s = engine.stats(); !s.failed && s.last_token_seconds > 0 && monotonic_seconds() - s.last_token_seconds < kRecent) return exchange->respond(text_response(200, ""));
  auto probe = std::make_unique<Request>();
  probe->id = "health-" + random_hex(16);
  probe->prompt = {options.bos_token_id};
  probe->max_tokens = 1;
  probe->sampling.temperature = 0;
  const auto once = std::make_shared<AnswerOnce>(exchange);
  probe->on_token = [once](TokenEvent&& event) { once->answer(event.finish == FinishReason::abort ? 503 : 200); };
  const auto handle = engine.submit(std::move(probe));
  if (!handle) return static_cast<void>(once->answer(503));
  exchange->post_later(options.stuck_seconds, [self = shared_from_this(), once, handle = *handle] {
    if (once->answer(503)) self->engine.cancel(handle, /*silent=*/true);
  });
}

void Api::Impl::look_up(const std::string& path, const ExchangePtr& exchange) {
  if (path == "/") return exchange->respond(text_response(200, fmt::format("nibble {} serves {}\n", options.version, options.served_names.front())));
  if (path == "/ready" || path == "/ping") return exchange->respond(text_response(phase == ApiPhase::ready && !engine.stats().failed ? 200 : 503, ""));
  if (path == "/health") {
    const EngineStats s = engine.stats();
    const bool is_stuck = s.busy && monotonic_seconds() - s.last_progress_seconds > options.stuck_seconds;
    return exchange->respond(text_response(phase == ApiPhase::ready && !is_stuck && !s.failed ? 200 : 503, ""));
  }
  if (path == "/metrics" && !metrics.enabled()) return exchange->respond(error_response(404, "metrics are off (--disable-metrics)", "", "not_found"));
  if (path == "/metrics") return exchange->respond({.status = 200, .body = metrics.render(engine.stats(), options.served_names.front()), .content_type = "text/plain; version=0.0.4", .headers = {}});
  if (path == "/flush_cache") return exchange->respond(engine.flush_cache() ? text_response(200, "Cache flushed.\n") : text_response(400, "Requests are running or waiting; the cache was not flushed.\n"));
  if (path == "/openapi.json") return exchange->respond({.status = 200, .body = openapi_document(options.version), .content_type = "application/json", .headers = {}});
  if (path.starts_with("/v1/models/")) {
    const std::string name = path.substr(11);
    if (std::find(options.served_names.begin(), options.served_names.end(), name) == options.served_names.end()) {
      return exchange->respond(error_response(404, fmt::format("The model '{}' does not exist", name), "model", "model_not_found"));
    }
    return exchange->respond(json_response(model_json(name, options.context_length)));
  }
  if (path == "/v1/models") {
    Json list = Json::array();
    for (const std::string& name : options.served_names) {
      list.push_back(model_json(name, options.context_length));
    }
    return exchange->respond(json_response({{"object", "list"}, {"data", list}}));
  }
  if (path == "/health_generate") return health_generate(exchange);
  if (path == "/server_info" || path == "/get_server_info") {
    const EngineStats s = engine.stats();
    const double kv_gigabytes = static_cast<double>(s.full_pages_total * options.full_page_bytes + s.sliding_pages_total * options.sliding_page_bytes) / 1e9;
    Json info = options.server_info.empty() ? Json::object() : Json::parse(options.server_info);
    info["version"] = options.version;
    info["startup_time"] = ready_seconds.load();
    info["startup"] = {{"process_to_ready_seconds", ready_seconds.load()}, {"load_seconds", options.load_seconds}, {"weight_bytes", options.weight_bytes},
                       {"load_bytes_per_second", options.load_seconds > 0 ? static_cast<double>(options.weight_bytes) / options.load_seconds : 0}, {"peak_host_bytes", peak_host_bytes()},
                       {"device_bytes", options.device_bytes > 0 ? Json(options.device_bytes) : Json(nullptr)}, {"program_bytes", program_bytes()}};
    info["max_total_num_tokens"] = s.full_pages_total * 16;
    info["internal_states"] = Json::array({{{"last_gen_throughput", s.generation_throughput}, {"memory_usage", {{"weight", static_cast<double>(options.weight_bytes) / 1e9}, {"kvcache", kv_gigabytes}, {"token_capacity", s.full_pages_total * 16}}},
                                            {"effective_max_running_requests_per_dp", 256}, {"avg_spec_accept_length", s.speculation.rounds > 0 ? Json(s.speculation.acceptance_length()) : Json(nullptr)}}});
    return exchange->respond(json_response(info));
  }
  return exchange->respond(json_response({{"model_path", options.model_path}, {"served_model_name", options.served_names.front()}, {"tokenizer_path", options.tokenizer_path}, {"is_generation", true},
                                          {"preferred_sampling_params", options.preferred_sampling_params.empty() ? Json(nullptr) : Json::parse(options.preferred_sampling_params)}, {"weight_version", "default"}, {"load_format", "auto"},
                                          {"reasoning_parser", options.reasoning_parser ? Json("gemma4") : Json(nullptr)}, {"tool_call_parser", options.tool_parser ? Json("gemma4") : Json(nullptr)},
                                          {"disaggregation_mode", "null"}, {"has_image_understanding", options.media.images}, {"has_audio_understanding", options.media.audio}, {"model_type", options.model_type},
                                          {"architectures", {options.architecture}}}));
}
}  // namespace nibble
