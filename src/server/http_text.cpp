#include "server/http_text.h"

#include <nlohmann/json.hpp>
#include <random>

#include "base/log.h"

namespace nibble {
namespace {
std::string_view reason_of(int status) {
  switch (status) {
    case 200: return "OK";
    case 204: return "No Content";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 413: return "Payload Too Large";
    case 415: return "Unsupported Media Type";
    case 431: return "Request Header Fields Too Large";
    case 500: return "Internal Server Error";
    case 501: return "Not Implemented";
    case 503: return "Service Unavailable";
    default: return "Status";
  }
}

std::string_view type_of(int status) {
  if (status == 401) return "authentication_error";
  return status == 500 || status == 503 ? "server_error" : "invalid_request_error";
}

std::string percent_decoded(std::string_view text, bool plus_is_space) {
  std::string out;
  const auto digit = [](char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1; };
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size() && digit(text[i + 1]) >= 0 && digit(text[i + 2]) >= 0) {
      out += static_cast<char>(digit(text[i + 1]) * 16 + digit(text[i + 2]));
      i += 2;
    } else {
      out += plus_is_space && text[i] == '+' ? ' ' : text[i];
    }
  }
  return out;
}
}  // namespace

namespace {
std::string origin_header(std::string_view origin) {
  if (origin.empty()) return "";
  return fmt::format("Access-Control-Allow-Origin: {}\r\n{}", origin, origin == "*" ? "" : "Vary: Origin\r\n");
}
}  // namespace

std::string render_response(const HttpResponse& response, const std::string& request_id, std::string_view origin, bool keep_alive, bool head_only) {
  std::string out = fmt::format("HTTP/1.1 {} {}\r\n", response.status, reason_of(response.status));
  if (!response.content_type.empty()) out += fmt::format("Content-Type: {}\r\n", response.content_type);
  for (const auto& [name, value] : response.headers) out += fmt::format("{}: {}\r\n", name, value);
  if (!request_id.empty()) out += fmt::format("x-request-id: {}\r\n", request_id);
  out += origin_header(origin);
  out += fmt::format("Connection: {}\r\nContent-Length: {}\r\n\r\n", keep_alive ? "keep-alive" : "close", response.body.size());
  return head_only ? out : out + response.body;
}

std::string render_stream_header(const std::string& request_id, std::string_view origin, bool keep_alive) {
  return fmt::format(
      "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\nX-Accel-Buffering: no\r\nx-request-id: {}\r\n"
      "{}Connection: {}\r\nTransfer-Encoding: chunked\r\n\r\n",
      request_id, origin_header(origin), keep_alive ? "keep-alive" : "close");
}

std::string chunk(std::string_view data) { return fmt::format("{:x}\r\n{}\r\n", data.size(), data); }

namespace {
constexpr size_t kSizeRoom = 18;         // 16 hexadecimal digits and the end of the line
constexpr size_t kKeptBytes = 16 << 10;
}  // namespace

void EventChunk::add(std::string_view data, std::string_view name) {
  if (text_.empty()) text_.resize(kSizeRoom);
  if (!name.empty()) text_.append("event: ").append(name).append("\n");
  text_.append("data: ").append(data).append("\n\n");
}

std::string_view EventChunk::finish() {
  size_t begin = kSizeRoom - 2, left = text_.size() - kSizeRoom;
  text_[begin] = '\r';
  text_[begin + 1] = '\n';
  for (; left > 0; left /= 16) text_[--begin] = "0123456789abcdef"[left % 16];
  text_ += "\r\n";
  return std::string_view(text_).substr(begin);
}

void EventChunk::clear() { text_.capacity() > kKeptBytes ? text_ = {} : text_.erase(); }

void split_target(const std::string& target, HttpRequest& request) {
  const size_t mark = target.find('?');
  request.path = percent_decoded(std::string_view(target).substr(0, mark), false);
  while (request.path.size() > 1 && request.path.ends_with('/')) request.path.pop_back();
  if (mark == std::string::npos) return;
  for (size_t at = mark + 1; at < target.size();) {
    const size_t end = std::min(target.find('&', at), target.size());
    const std::string_view pair = std::string_view(target).substr(at, end - at);
    const size_t equals = pair.find('=');
    request.query[percent_decoded(pair.substr(0, equals), true)] = equals == std::string_view::npos ? "" : percent_decoded(pair.substr(equals + 1), true);
    at = end + 1;
  }
}

std::string random_hex(int digits) {
  thread_local std::mt19937_64 generator{std::random_device{}()};
  std::string out;
  while (static_cast<int>(out.size()) < digits) out += fmt::format("{:016x}", generator());
  out.resize(static_cast<size_t>(digits));
  return out;
}

std::string request_id(const std::string& wanted) {
  bool usable = !wanted.empty() && wanted.size() <= 128;
  for (const char c : wanted) usable = usable && c > 0x20 && c < 0x7f;
  return usable ? wanted : random_hex(32);
}

HttpResponse error_response(int status, std::string_view message, std::string_view param, std::string_view code) {
  const nlohmann::ordered_json param_json = param.empty() ? nlohmann::ordered_json(nullptr) : nlohmann::ordered_json(param);
  const nlohmann::ordered_json code_json = code.empty() ? nlohmann::ordered_json(nullptr) : nlohmann::ordered_json(code);
  const nlohmann::ordered_json body = {{"error", {{"message", message}, {"type", type_of(status)}, {"param", param_json}, {"code", code_json}}},
                                       {"object", "error"},
                                       {"message", message},
                                       {"type", type_of(status)},
                                       {"code", status}};
  HttpResponse response{.status = status, .body = body.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace), .content_type = "application/json", .headers = {}};
  if (status == 401) response.headers.emplace_back("WWW-Authenticate", "Bearer");
  if (status == 503) response.headers.emplace_back("Retry-After", code == "queue_full" ? "1" : "5");
  return response;
}

HttpResponse error_response(const Error& error) {
  switch (error.code) {
    case ErrorCode::invalid_argument: {
      const bool missing = error.message.ends_with("is required");
      return error_response(400, error.message, error.param, error.param == "context" ? "context_length_exceeded" : missing ? "missing_required_parameter" : "invalid_value");
    }
    case ErrorCode::not_found: return error_response(404, error.message, error.param, "not_found");
    case ErrorCode::unsupported: return error_response(400, error.message, error.param, "unsupported");
    case ErrorCode::unavailable: return error_response(503, error.message, error.param, error.message.starts_with("the queue") ? "queue_full" : "unavailable");
    default: return error_response(500, error.message, error.param, "internal_error");
  }
}

std::string error_event(const Error& error) { return error_response(error).body; }

std::string access_line(const HttpRequest& request, int status) {
  // What the client wrote must not look like another line, nor speak to a terminal.
  std::string path;
  for (const char c : request.path) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte > 0x20 && byte < 0x7f && c != '"' && c != '\\') {
      path += c;
    } else {
      path += fmt::format("%{:02X}", byte);
    }
  }
  const bool is_v6 = request.peer.find(':') != std::string::npos;
  return fmt::format("{}{}{}:{} - \"{} {} HTTP/1.1\" {} {}", is_v6 ? "[" : "", request.peer, is_v6 ? "]" : "", request.peer_port, request.method, path, status, reason_of(status));
}

void log_access(const HttpRequest& request, int status) { log_info("{}", access_line(request, status)); }
}  // namespace nibble
