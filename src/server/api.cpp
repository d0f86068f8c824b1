#include "server/api.h"

#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/rng.h"
#include "server/api_impl.h"
#include "server/http_text.h"
#include "server/web_page.h"

namespace nibble {
namespace {
constexpr double kStuckSeconds = 20;

HttpResponse json_response(const Json& body) { return {.status = 200, .body = dump(body), .content_type = "application/json", .headers = {}}; }
HttpResponse text_response(int status, std::string text) { return {.status = status, .body = std::move(text), .content_type = "text/plain; charset=utf-8", .headers = {}}; }

// In a time that does not depend on where the texts differ.
bool same_secret(std::string_view a, std::string_view b) {
  unsigned char difference = a.size() != b.size();
  for (size_t i = 0; i < a.size(); ++i) difference |= static_cast<unsigned char>(a[i] ^ b[b.empty() ? 0 : i % b.size()]) * !b.empty();
  return difference == 0 && !b.empty();
}

bool is_loopback(const std::string& peer) { return peer.starts_with("127.") || peer == "::1" || peer.starts_with("::ffff:127."); }
}  // namespace

Json round_metrics(const std::vector<DraftRound>& rounds, int32_t max_drafts, bool detailed) {
  DraftCounts counts;
  Json accepted = Json::array(), drafted = Json::array();
  for (const DraftRound& round : rounds) {
    counts.add(round);
    accepted.push_back(round.accepted);
    drafted.push_back(round.drafted);
  }
  Json histogram = Json::array();
  for (int32_t n = 0; n <= max_drafts; ++n) histogram.push_back(counts.histogram[static_cast<size_t>(n)]);
  Json out = {{"mean_acceptance_length", counts.acceptance_length()}, {"draft_acceptance_rate", counts.acceptance_rate()}, {"acceptance_histogram", histogram},
              {"num_accepted_draft_tokens", counts.accepted}, {"num_draft_tokens", counts.drafted}, {"num_spec_steps", counts.rounds}, {"num_spec_tokens", max_drafts}};
  if (detailed) {
    out["per_step_accepted"] = std::move(accepted);
    out["per_step_drafted"] = std::move(drafted);
  }
  return out;
}

std::string_view finish_text(FinishReason reason) {
  switch (reason) {
    case FinishReason::length: return "length";
    case FinishReason::abort: return "abort";
    default: return "stop";
  }
}

Api::Impl::Impl(ApiOptions o, Engine& e, const Tokenizer& t, const ChatTemplate* c)
    : options(std::move(o)), engine(e), tokenizer(t), chat_template(c), markers(t), metrics(options.metrics), started(monotonic_seconds()) {}

std::string Api::Impl::shown_model(const std::string& asked) const { return asked.empty() || asked == "default" ? options.served_names.front() : asked; }

std::vector<int32_t> Api::Impl::raw_prompt(const std::string& text, bool add_bos) const {
  std::vector<int32_t> ids = tokenizer.encode(text);
  if (add_bos && (ids.empty() || ids[0] != options.bos_token_id)) ids.insert(ids.begin(), options.bos_token_id);
  return ids;
}

Json Api::Impl::token_logprob(int32_t id, float logprob) const {
  const std::string bytes = tokenizer.token_bytes(id);
  std::vector<int> values;
  for (const char c : bytes) values.push_back(static_cast<unsigned char>(c));
  return {{"token", bytes}, {"bytes", values}, {"logprob", std::max(logprob, -9999.0f)}};
}

void Api::Impl::fit_prompt(std::vector<int32_t>& prompt) const {
  if (!options.truncate_prompts || static_cast<int64_t>(prompt.size()) < options.context_length) return;
  log_warning("a prompt of {} tokens is cut to {} (--allow-auto-truncate)", prompt.size(), options.context_length - 1);
  prompt.resize(static_cast<size_t>(options.context_length - 1));
}

std::unique_ptr<Request> Api::Impl::engine_request(std::vector<int32_t> prompt, const GenerationFields& fields, const std::string& id, std::optional<int32_t> default_max_tokens) {
  if (options.strict_model_name && !fields.model.empty() && fields.model != "default" &&
      std::find(options.served_names.begin(), options.served_names.end(), fields.model) == options.served_names.end()) {
    throw Error(ErrorCode::not_found, fmt::format("The model '{}' does not exist", fields.model), "model");
  }
  const auto wanted = fields.max_tokens ? fields.max_tokens : default_max_tokens;
  const auto num_prompt = static_cast<int64_t>(prompt.size());
  const int64_t room = options.context_length - num_prompt;
  if (options.truncate_prompts && wanted && *wanted > room) log_warning("request {}: max_tokens {} is lowered to {} (--allow-auto-truncate)", id, *wanted, room);
  if (room < 1 || (fields.max_tokens && *fields.max_tokens > room && !options.truncate_prompts)) {
    throw Error(ErrorCode::invalid_argument,
                fmt::format("This model's context length is {} tokens; the prompt has {} and {} were asked for", options.context_length, num_prompt,
                            fields.max_tokens ? std::to_string(*fields.max_tokens) : "at least 1"),
                "context");
  }
  auto request = std::make_unique<Request>();
  request->id = id;
  request->prompt = std::move(prompt);
  if (request->prompt.empty()) throw Error(ErrorCode::invalid_argument, "the prompt is empty", "prompt");
  request->sampling = fields.sampling;
  if (!fields.seeded) {
    const PhiloxCounter drawn = philox4x32({static_cast<uint32_t>(next_seed.fetch_add(1)), 0, 0, 1}, options.random_seed);
    request->sampling.seed = uint64_t{drawn[0]} << 32 | drawn[1];
  }
  request->cache_salt = hash_bytes(std::as_bytes(std::span(fields.cache_salt)));
  request->stop_ids = options.stop_ids;
  request->stop_ids.insert(request->stop_ids.end(), fields.stop_token_ids.begin(), fields.stop_token_ids.end());
  request->ignore_eos = fields.ignore_eos;
  request->min_tokens = fields.min_tokens;
  request->max_tokens = static_cast<int32_t>(std::min<int64_t>(wanted.value_or(static_cast<int32_t>(room)), room));
  request->num_choices = fields.num_choices;
  return request;
}

bool Api::Impl::authorized(const HttpRequest& request, bool management) const {
  const std::string& path = request.path;
  if (request.method == "OPTIONS" || path.starts_with("/health") || path.starts_with("/ready") || path.starts_with("/metrics")) return true;
  const std::string& wanted = management && !options.admin_api_key.empty() ? options.admin_api_key : options.api_key;
  if (wanted.empty()) return !management || !options.loopback_only_admin || is_loopback(request.peer);
  const std::string header = request.header("authorization");
  std::string scheme = header.substr(0, 7);
  for (char& c : scheme) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return scheme == "bearer " && same_secret(std::string_view(header).substr(7), wanted);
}

namespace {
struct Route {
  const char* path;
  const char* methods;  // "GET", "POST", "GET POST"
  bool management;
};
constexpr Route kRoutes[] = {
    {"/", "GET HEAD", false}, {"/health", "GET HEAD", false}, {"/health_generate", "GET HEAD", false}, {"/ready", "GET HEAD", false}, {"/ping", "GET HEAD", false},
    {"/metrics", "GET HEAD", false}, {"/v1/models", "GET HEAD", false}, {"/model_info", "GET HEAD", false}, {"/get_model_info", "GET HEAD", false},
    {"/server_info", "GET HEAD", false}, {"/get_server_info", "GET HEAD", false}, {"/v1/chat/completions", "POST", false}, {"/v1/completions", "POST", false},
    {"/generate", "POST PUT", false}, {"/tokenize", "POST", false}, {"/v1/tokenize", "POST", false}, {"/detokenize", "POST", false}, {"/v1/detokenize", "POST", false},
    {"/parse_function_call", "POST", false}, {"/separate_reasoning", "POST", false}, {"/flush_cache", "GET POST", true}, {"/abort_request", "POST", true},
};
constexpr const char* kNotOffered[] = {"/v1/embeddings", "/v1/rerank", "/v1/score", "/v1/classify", "/encode", "/classify", "/v1/files", "/v1/batches", "/v1/responses",
                                       "/release_memory_occupation", "/resume_memory_occupation", "/open_session", "/close_session", "/load_lora_adapter", "/unload_lora_adapter"};

bool has_word(std::string_view list, std::string_view word) {
  for (size_t at = 0; at < list.size();) {
    const size_t end = std::min(list.find(' ', at), list.size());
    if (list.substr(at, end - at) == word) return true;
    at = end + 1;
  }
  return false;
}

bool is_json_type(std::string type) {
  type = type.substr(0, type.find(';'));
  while (type.ends_with(' ')) type.pop_back();
  for (char& c : type) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return type.empty() || type == "application/json";
}
}  // namespace

void Api::Impl::route(const HttpRequest& request, const ExchangePtr& exchange) {
  const std::string& path = request.path;
  if (request.method == "OPTIONS") {
    return exchange->respond({.status = 200, .body = {}, .content_type = {}, .headers = {{"Access-Control-Allow-Methods", "GET, POST, PUT, OPTIONS"}, {"Access-Control-Allow-Headers", "*"}}});
  }
  for (const char* prefix : kNotOffered) {
    if (path.starts_with(prefix)) return exchange->respond(error_response(501, fmt::format("{} is not offered: this server generates text from chat and prompts only", path), "", "not_implemented"));
  }
  if (path.starts_with("/v1/audio/") || path.starts_with("/update_weights_")) return exchange->respond(error_response(501, fmt::format("{} is not offered", path), "", "not_implemented"));
  if (path.starts_with("/v1/models/")) {
    const std::string name = path.substr(11);
    if (std::find(options.served_names.begin(), options.served_names.end(), name) == options.served_names.end()) {
      return exchange->respond(error_response(404, fmt::format("The model '{}' does not exist", name), "model", "model_not_found"));
    }
    return exchange->respond(json_response({{"id", name}, {"object", "model"}, {"created", 0}, {"owned_by", "nibble"}, {"root", name}, {"parent", nullptr}, {"max_model_len", options.context_length}}));
  }
  const Route* found = nullptr;
  for (const Route& route : kRoutes) {
    if (path == route.path) found = &route;
  }
  if (!found) return exchange->respond(error_response(404, fmt::format("there is no {}", path), "", "not_found"));
  if (!has_word(found->methods, request.method)) {
    HttpResponse response = error_response(405, fmt::format("{} does not take {}", path, request.method), "", "not_found");
    response.headers.emplace_back("Allow", found->methods);
    return exchange->respond(response);
  }
  // The page holds no secret and must load before its reader can give it a key.
  if (path == "/" && request.header("accept").find("text/html") != std::string::npos) return exchange->respond(web_page());
  if (!authorized(request, found->management)) return exchange->respond(error_response(401, "Unauthorized", "", "invalid_api_key"));

  const bool posts_json = request.method != "GET" && request.method != "HEAD" && path != "/flush_cache";
  if (!posts_json) {
    if (path == "/") return exchange->respond(text_response(200, fmt::format("nibble {} serves {}\n", options.version, options.served_names.front())));
    if (path == "/ready" || path == "/ping") return exchange->respond(text_response(ready ? 200 : 503, ""));
    if (path == "/health") {
      const bool stuck = engine.stats().busy && monotonic_seconds() - engine.stats().last_progress_seconds > kStuckSeconds;
      return exchange->respond(text_response(ready && !stuck ? 200 : 503, ""));
    }
    if (path == "/metrics" && !metrics.enabled()) return exchange->respond(error_response(404, "metrics are off (--disable-metrics)", "", "not_found"));
    if (path == "/metrics") return exchange->respond({.status = 200, .body = metrics.render(engine.stats(), options.served_names.front()), .content_type = "text/plain; version=0.0.4", .headers = {}});
    if (path == "/flush_cache") return exchange->respond(engine.flush_cache() ? text_response(200, "Cache flushed.\n") : text_response(400, "Requests are running or waiting; the cache was not flushed.\n"));
    if (path == "/v1/models") {
      Json list = Json::array();
      for (const std::string& name : options.served_names) {
        list.push_back({{"id", name}, {"object", "model"}, {"created", unix_seconds()}, {"owned_by", "nibble"}, {"root", name}, {"parent", nullptr}, {"max_model_len", options.context_length}});
      }
      return exchange->respond(json_response({{"object", "list"}, {"data", list}}));
    }
    if (path == "/health_generate") {
      auto probe = std::make_unique<Request>();
      probe->id = "health-" + random_hex(16);
      probe->prompt = {options.bos_token_id};
      probe->max_tokens = 1;
      probe->sampling.temperature = 0;
      probe->on_token = [exchange](TokenEvent&& event) { exchange->respond(text_response(event.finish == FinishReason::abort ? 503 : 200, "")); };
      if (!engine.submit(std::move(probe))) exchange->respond(text_response(503, ""));
      return;
    }
    if (path == "/server_info" || path == "/get_server_info") {
      const EngineStats s = engine.stats();
      Json info = options.server_info.empty() ? Json::object() : Json::parse(options.server_info);
      info["version"] = options.version;
      info["startup_time"] = started;
      info["max_total_num_tokens"] = s.full_pages_total * 16;
      info["internal_states"] = Json::array({{{"last_gen_throughput", s.generation_throughput}, {"memory_usage", {{"weight", 0}, {"kvcache", 0}, {"token_capacity", s.full_pages_total * 16}}},
                                              {"effective_max_running_requests_per_dp", 256}, {"avg_spec_accept_length", s.speculation.rounds > 0 ? Json(s.speculation.acceptance_length()) : Json(nullptr)}}});
      return exchange->respond(json_response(info));
    }
    return exchange->respond(json_response({{"model_path", options.model_path}, {"served_model_name", options.served_names.front()}, {"tokenizer_path", options.tokenizer_path}, {"is_generation", true},
                                            {"preferred_sampling_params", options.preferred_sampling_params.empty() ? Json(nullptr) : Json::parse(options.preferred_sampling_params)}, {"weight_version", "default"}, {"load_format", "auto"},
                                            {"reasoning_parser", options.reasoning_parser ? Json("gemma4") : Json(nullptr)}, {"tool_call_parser", options.tool_parser ? Json("gemma4") : Json(nullptr)},
                                            {"disaggregation_mode", "null"}, {"has_image_understanding", options.media.images}, {"has_audio_understanding", options.media.audio}, {"model_type", options.model_type},
                                            {"architectures", {options.architecture}}}));
  }

  if (!is_json_type(request.header("content-type"))) {
    return exchange->respond(error_response(415, fmt::format("the content type is {}, wanted application/json", request.header("content-type")), "", "unsupported_media_type"));
  }
  if (!ready) return exchange->respond(error_response(503, "the server is starting or shutting down", "", "unavailable"));
  const Json body = value_or_raise(parse_json_body(request.body));
  if (path == "/v1/chat/completions") return chat(body, request, exchange);
  if (path == "/v1/completions") return completions(body, request, exchange);
  if (path == "/generate") return generate(body, request, exchange);
  if (path.ends_with("/tokenize")) return exchange->respond(tokenize(body));
  if (path.ends_with("/detokenize")) return exchange->respond(detokenize(body));
  if (path == "/parse_function_call") return exchange->respond(parse_function_call(body));
  if (path == "/separate_reasoning") return exchange->respond(separate_reasoning(body));
  const Fields fields(body);  // /abort_request
  fields.boolean("abort_all").value_or(false) ? engine.cancel_all() : engine.cancel(fields.string("rid").value_or(""));
  exchange->respond(json_response(Json::object()));
}

Api::Api(ApiOptions options, Engine& engine, const Tokenizer& tokenizer, const ChatTemplate* chat_template)
    : impl_(std::make_shared<Impl>(std::move(options), engine, tokenizer, chat_template)) {}
Api::~Api() = default;

void Api::set_ready(bool ready) { impl_->ready = ready; }

void Api::handle(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange) {
  impl_->metrics.count_http_request(request.path, request.method);
  const std::string& root = impl_->options.root_path;
  impl_->answering(exchange, [&] {
    if (root.empty() || !request.path.starts_with(root + "/")) return impl_->route(request, exchange);
    HttpRequest inner = request;
    inner.path.erase(0, root.size());
    impl_->route(inner, exchange);
  });
}

void Api::Impl::answering(const ExchangePtr& exchange, const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    exchange->respond(error_response(error));
  } catch (const std::exception& error) {
    log_error("a request failed: {}", error.what());
    exchange->respond(error_response(500, "internal error", "", "internal_error"));
  }
}
}  // namespace nibble
