// How eval and bench reach a server: over HTTP, or the same routes called in this process. One thread owns a transport and runs it; every callback comes on
// that thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace nibble {
class Api;

int64_t monotonic_ns();

struct HttpOutcome {
  int status = 0;          // 0: no answer came
  std::string error;       // why the answer is missing or cut off; empty: it is whole
  std::string body;        // what `on_body` did not take
  int64_t start_ns = 0;    // just before the first byte was written to an open connection
  int64_t end_ns = 0;
  int64_t connect_ns = 0;  // spent on a new connection before start_ns; 0: an open one was used
};

struct HttpCall {
  std::string method = "POST", target, body;  // target: the whole path, "/v1/chat/completions"
  std::function<void(std::string_view bytes, int64_t now_ns)> on_body;  // of a 200 answer, as it arrives, and when; none: collected in the outcome
  std::function<void(HttpOutcome&&)> on_done;                          // exactly once
};

class Transport {
 public:
  virtual ~Transport() = default;
  virtual void start(HttpCall call) = 0;
  virtual void at(int64_t when_ns, std::function<void()> work) = 0;  // monotonic_ns() time
  // Until nothing is in flight and no timer is left. `poll` is called at least every 100 ms.
  virtual void run(const std::function<void()>& poll = {}) = 0;
  virtual int64_t now_ns() const { return monotonic_ns(); }          // its clock; tests bring their own
  virtual void cancel_all() = 0;                                     // running calls end with the error "cancelled", timers are dropped
};

struct HttpAddress {
  std::string host, port, prefix;  // prefix: a path before the routes, without the final /v1
};
// "http://127.0.0.1:30000", "host:port", with or without /v1. Raises invalid_argument.
HttpAddress parse_base_url(const std::string& url);

struct HttpClientOptions {
  std::string api_key = "EMPTY";
  double connect_seconds = 30, read_seconds = 14400;
};
// HTTP/1.1 over non-blocking sockets and one epoll, made to disturb what it measures as little as it can: connections stay open, TCP_NODELAY, one waking
// for what several streams sent within 0.25 ms. Times are those at which the kernel received the bytes, where it tells them.
std::unique_ptr<Transport> make_http_transport(const HttpAddress& address, const HttpClientOptions& options);

// The routes of `api`, without a socket. `api` must outlive it.
std::unique_ptr<Transport> make_in_process_transport(Api& api);

// One call, run to its end: at most `seconds`, or until `stopped` says so.
HttpOutcome call_and_wait(Transport& transport, std::string method, std::string target, std::string body = {}, double seconds = 60, const std::function<bool()>& stopped = {});
}  // namespace nibble
