// Every path that is served, and those that clients ask for in vain.
#pragma once

#include <span>
#include <string_view>

namespace nibble {
struct Route {
  std::string_view path;     // "/v1/models/{id}" stands for all that begin with /v1/models/
  std::string_view methods;  // "GET", "POST", "GET POST"
  bool management = false;   // for the operator: the admin key, or loopback clients
  bool generates = false;    // makes tokens: refused while starting and shutting down
};

std::span<const Route> api_routes();
const Route* find_route(std::string_view path);  // nullptr: none
bool takes(const Route& route, std::string_view method);
bool is_not_offered(std::string_view path);      // known from other servers, answered with 501
}  // namespace nibble
