#include "server/routes.h"

#include <algorithm>

namespace nibble {
namespace {
constexpr Route kRoutes[] = {
    {"/", "GET HEAD"},
    {"/health", "GET HEAD"},
    {"/health_generate", "GET HEAD"},
    {"/ready", "GET HEAD"},
    {"/ping", "GET HEAD"},
    {"/metrics", "GET HEAD"},
    {"/openapi.json", "GET HEAD"},
    {"/v1/models", "GET HEAD"},
    {"/v1/models/{id}", "GET HEAD"},
    {"/model_info", "GET HEAD"},
    {"/get_model_info", "GET HEAD"},
    {"/server_info", "GET HEAD"},
    {"/get_server_info", "GET HEAD"},
    {"/v1/chat/completions", "POST", false, true},
    {"/v1/completions", "POST", false, true},
    {"/v1/responses", "POST", false, true},
    {"/v1/messages", "POST", false, true},
    {"/v1/messages/count_tokens", "POST"},
    {"/generate", "POST PUT", false, true},
    {"/tokenize", "POST"},
    {"/v1/tokenize", "POST"},
    {"/detokenize", "POST"},
    {"/v1/detokenize", "POST"},
    {"/parse_function_call", "POST"},
    {"/separate_reasoning", "POST"},
    {"/flush_cache", "GET POST", true},
    {"/abort_request", "POST", true},
};
constexpr std::string_view kModel = "/v1/models/";
constexpr std::string_view kNotOffered[] = {"/v1/embeddings", "/v1/rerank", "/v1/score", "/v1/classify", "/encode", "/classify", "/v1/files", "/v1/batches", "/v1/audio/", "/update_weights_",
                                            "/release_memory_occupation", "/resume_memory_occupation", "/open_session", "/close_session", "/load_lora_adapter", "/unload_lora_adapter"};
}  // namespace

std::span<const Route> api_routes() { return kRoutes; }

const Route* find_route(std::string_view path) {
  const bool is_model = path.starts_with(kModel) && path.size() > kModel.size();
  for (const Route& route : kRoutes) {
    if (path == route.path || (is_model && route.path.starts_with(kModel))) return &route;
  }
  return nullptr;
}

bool takes(const Route& route, std::string_view method) {
  for (size_t at = 0; at < route.methods.size();) {
    const size_t end = std::min(route.methods.find(' ', at), route.methods.size());
    if (route.methods.substr(at, end - at) == method) return true;
    at = end + 1;
  }
  return false;
}

bool is_not_offered(std::string_view path) {
  for (const std::string_view prefix : kNotOffered) {
    if (path.starts_with(prefix)) return true;
  }
  return false;
}
}  // namespace nibble
