#include "server/api.h"

#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/process.h"
#include "base/rng.h"
#include "server/api_impl.h"
#include "server/http_text.h"
#include "server/routes.h"
#include "server/web_page.h"

namespace nibble {
namespace {
HttpResponse json_response(const Json& body) { return {.status = 200, .body = dump(body), .content_type = "application/json", .headers = {}}; }

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
    case FinishReason::length:
    case FinishReason::repetition: return "length";
    case FinishReason::abort: return "abort";
    default: return "stop";
  }
}

std::string exact_reason(FinishReason reason, bool stopped) {
  if (stopped) return "stop_string";
  switch (reason) {
    case FinishReason::length: return "length";
    case FinishReason::repetition: return "repetition";
    case FinishReason::abort: return "abort";
    case FinishReason::stop_string: return "stop_string";
    default: return "stop_token";
  }
}

Api::Impl::Impl(ApiOptions o, Engine& e, const Tokenizer& t, const ChatTemplate* c)
    : options(std::move(o)), engine(e), tokenizer(t), chat_template(c), markers(t), metrics(options.metrics), structured(t, options.stop_ids, options.structured_output, options.max_json_whitespace),
      request_log(options.request_log) {}

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
  if (header.empty() && request.headers.contains("x-api-key")) return same_secret(request.header("x-api-key"), wanted);  // Anthropic's clients
  std::string scheme = header.substr(0, 7);
  for (char& c : scheme) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return scheme == "bearer " && same_secret(std::string_view(header).substr(7), wanted);
}

namespace {
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
  if (is_not_offered(path)) {
    return exchange->respond(error_response(501, fmt::format("{} is not offered: this server generates text from chat and prompts only", path), "", "not_implemented"));
  }
  const Route* found = find_route(path);
  if (!found) return exchange->respond(error_response(404, fmt::format("there is no {}", path), "", "not_found"));
  if (!takes(*found, request.method)) {
    HttpResponse response = error_response(405, fmt::format("{} does not take {}", path, request.method), "", "not_found");
    response.headers.emplace_back("Allow", found->methods);
    return exchange->respond(response);
  }
  // The page holds no secret and must load before its reader can give it a key.
  if (path == "/" && request.header("accept").find("text/html") != std::string::npos) return exchange->respond(web_page());
  if (!authorized(request, found->management)) return exchange->respond(error_response(401, "Unauthorized", "", "invalid_api_key"));

  const bool posts_json = request.method != "GET" && request.method != "HEAD" && path != "/flush_cache";
  if (!posts_json) return look_up(path, exchange);
  if (!is_json_type(request.header("content-type"))) {
    return exchange->respond(error_response(415, fmt::format("the content type is {}, wanted application/json", request.header("content-type")), "", "unsupported_media_type"));
  }
  if (found->generates && phase != ApiPhase::ready && phase != ApiPhase::leaving) return exchange->respond(error_response(503, "the server is starting or shutting down", "", "unavailable"));
  if (request.body.size() < kLargeBodyBytes) return answer(value_or_raise(parse_json_body(request.body)), request, exchange);
  media_threads.post([self = shared_from_this(), request, exchange] {
    self->answering(exchange, [&] {
      auto body = std::make_shared<const Json>(value_or_raise(parse_json_body(request.body)));
      exchange->post([=] { self->answering(exchange, [&] { self->answer(*body, request, exchange); }); });
    });
  });
}

void Api::Impl::answer(const Json& body, const HttpRequest& request, const ExchangePtr& exchange) {
  const std::string& path = request.path;
  if (find_route(path)->generates && request_log.enabled()) request_log.received(request, body);
  if (path == "/v1/chat/completions") return chat(body, request, exchange);
  if (path == "/v1/completions") return completions(body, request, exchange);
  if (path == "/v1/responses") return responses(body, request, exchange);
  if (path == "/v1/messages") return messages(body, request, exchange);
  if (path == "/v1/messages/count_tokens") return exchange->respond(count_message_tokens(body));
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

void Api::set_phase(ApiPhase phase) {
  if (phase == ApiPhase::ready && impl_->ready_seconds == 0) impl_->ready_seconds = process_age_seconds();
  impl_->phase = phase;
}

void Api::handle(const HttpRequest& request, const ExchangePtr& outer) {
  std::optional<HttpRequest> stripped;
  if (const std::string& root = impl_->options.root_path; !root.empty() && request.path.starts_with(root + "/")) {
    stripped = request;
    stripped->path.erase(0, root.size());
  }
  const HttpRequest& inner = stripped ? *stripped : request;
  const Route* route = find_route(inner.path);
  const std::string endpoint(route ? route->path : "other");
  impl_->metrics.count_http_request(endpoint, request.method);
  ExchangePtr exchange = impl_->metrics.enabled() ? tracked_exchange(outer, impl_, endpoint) : outer;
  if (route && route->generates && impl_->request_log.enabled()) exchange = impl_->request_log.follow(std::move(exchange), request);
  if (inner.path.starts_with("/v1/messages")) exchange = messages_exchange(std::move(exchange), request.id);
  impl_->answering(exchange, [&] { impl_->route(inner, exchange); });
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
