// HTTP messages as text: status lines, headers, chunks, the one error body.
#pragma once

#include <string>
#include <string_view>

#include "base/error.h"
#include "server/http.h"

namespace nibble {
// `origin`: what Access-Control-Allow-Origin says, "" for no such header.
std::string render_response(const HttpResponse& response, const std::string& request_id, std::string_view origin, bool keep_alive, bool head_only);
std::string render_stream_header(const std::string& request_id, std::string_view origin, bool keep_alive);
std::string chunk(std::string_view data);

// Server-sent events as one chunk of a body. Its memory stays for the next ones, as long as it is not much.
class EventChunk {
 public:
  void add(std::string_view data, std::string_view name = {});  // an `event:` line only where there is a name
  bool empty() const { return text_.empty(); }
  size_t size() const { return text_.size(); }
  std::string_view finish();  // size, events and end of the chunk; nothing can be added after it but clear()
  void clear();

 private:
  std::string text_;  // begins with room for the chunk's size
};

void split_target(const std::string& target, HttpRequest& request);  // path and query, percent-decoded
std::string request_id(const std::string& wanted);                   // the client's if it is printable and short, else a fresh one
std::string random_hex(int digits);

// {"error": {message, type, param, code}, "object": "error", "message", "type", "code": status}
HttpResponse error_response(int status, std::string_view message, std::string_view param, std::string_view code);
HttpResponse error_response(const Error& error);
std::string error_event(const Error& error);  // the JSON alone

std::string access_line(const HttpRequest& request, int status);  // 10.0.0.7:5123 - "GET /health HTTP/1.1" 200 OK; bytes of the path that are no plain characters as %1B
void log_access(const HttpRequest& request, int status);
}  // namespace nibble
