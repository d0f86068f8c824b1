// --log-requests: what clients asked for and what they got, one line when a request comes and one when it ends.
//
// JSON form: {"time", "event": "request.received", "rid", "route", "peer", "obj"} and {"time", "event": "request.finished", "rid", "route", "status", "stream", "seconds", "out"?, "error"?}.
// status 0: the client went away. Levels: 0 metadata, 1 and every field but the texts, 2 and the first and last 2048 characters of each text of input and output, 3 all of them.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "server/http.h"
#include "server/json_body.h"
#include "server/recent_requests.h"

namespace nibble {
struct RequestLogOptions {
  bool enabled = false;
  int level = 2;
  bool json = false;                   // else "Receive: ..." and "Finish: ..." as log lines
  std::vector<std::string> targets;    // "stdout" or folders, which get a file an hour; none: stdout
  RecentRequests* recent = nullptr;    // gets every request too, at level 3 and without what was answered, `enabled` or not; outlives the log
};

class RequestLog {
 public:
  explicit RequestLog(RequestLogOptions options);  // raises unavailable: a folder cannot be written
  ~RequestLog();

  bool enabled() const { return options_.enabled || options_.recent; }
  int level() const { return options_.enabled ? options_.level : 0; }
  void received(const HttpRequest& request, const Json& body);
  // Passes all on to `inner` and writes the request's last line when the reply is complete, or when the exchange is dropped without one.
  ExchangePtr follow(ExchangePtr inner, const HttpRequest& request);

  void finished(Json line);  // for the exchanges

 private:
  void write(const char* word, Json line);
  void keep(const Json& line);

  RequestLogOptions options_;
  std::mutex mutex_;
};
}  // namespace nibble
