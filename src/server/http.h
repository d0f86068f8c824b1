// HTTP as the routes see it: a request, and an exchange that takes one answer or a stream of events, from any thread. The transport is in http_server.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace nibble {
struct HttpRequest {
  std::string method;                          // "GET"
  std::string path;                            // decoded, without query and trailing '/'
  std::map<std::string, std::string> query;    // decoded
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;
  std::string peer;                            // address of the client
  uint16_t peer_port = 0;
  std::string id;                              // for x-request-id
  std::string header(const std::string& name) const {
    const auto at = headers.find(name);
    return at == headers.end() ? std::string() : at->second;
  }
};

struct HttpResponse {
  int status = 200;
  std::string body;
  std::string content_type = "application/json";
  std::vector<std::pair<std::string, std::string>> headers;
};

// Thread-safe. Either respond() once, or start_events(), event()..., finish(). What comes after the client is gone is dropped.
class Exchange {
 public:
  virtual ~Exchange() = default;
  virtual void respond(HttpResponse response) = 0;
  virtual void start_events() = 0;               // 200, text/event-stream
  virtual void event(std::string data, std::string_view name = {}) = 0;  // one `data:` event, sent at once; with an `event:` line where it has a name
  virtual void finish() = 0;
  virtual void on_disconnect(std::function<void()> callback) = 0;  // called at most once
  virtual void post(std::function<void()> work) = 0;               // runs on the connection's own thread, in order
  virtual void post_later(double /*seconds*/, std::function<void()> /*work*/) {}  // the same after a time, unless the exchange is gone by then; never where nobody has a clock
};

using ExchangePtr = std::shared_ptr<Exchange>;
using HttpHandler = std::function<void(const HttpRequest&, const std::shared_ptr<Exchange>&)>;
}  // namespace nibble
