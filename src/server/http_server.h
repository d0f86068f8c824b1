// The transport: HTTP/1.1 over TCP with keep-alive, server-sent events, disconnect detection. One coroutine per connection, each on one of a few threads.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/log.h"
#include "server/http.h"

namespace nibble {
struct HttpServerOptions {
  std::string host = "127.0.0.1";
  uint16_t port = 30000;  // 0: any free one
  int num_threads = 2;
  uint64_t max_body_bytes = uint64_t{64} << 20;
  int keep_alive_seconds = 30;   // that a connection may be silent between requests
  int read_seconds = 120;        // that a request may take to arrive, header and body
  int write_seconds = 60;        // that a client may take to read what is sent at once
  int max_connections = 4096;    // more are answered with 503 and closed
  std::vector<std::string> allowed_origins{"*"};   // for browsers (CORS)
  LogLevel access_log = LogLevel::debug;           // the lowest level that --log-level-http lets through; access lines are of level info
  std::vector<std::string> quiet_paths;            // no access lines for paths that begin so
};

class HttpServer {
 public:
  // Binds at once (raises unavailable: the address is taken); connections wait until serve().
  explicit HttpServer(const HttpServerOptions& options);
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  uint16_t port() const;
  void serve(HttpHandler handler);  // starts the threads and returns
  void close_after_replies();       // from here on every reply is its connection's last
  bool drain(double seconds);       // accepts no more and lets replies that are under way be sent; true: all were, in time
  void stop();                      // closes everything, joins the threads

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};
}  // namespace nibble
