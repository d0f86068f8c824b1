#include "server/request_log.h"

#include <fmt/format.h>

#include <cstdio>
#include <ctime>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/utf8.h"
#include "server/forwarding_exchange.h"

namespace nibble {
namespace {
constexpr size_t kShown = 2048;  // characters at each end of a text, at level 2

std::string time_text(const char* format) {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  char text[32];
  std::strftime(text, sizeof text, format, &parts);
  return text;
}

std::string shortened(const std::string& text) {
  if (text.size() <= 2 * kShown) return text;
  // Not inside a character.
  size_t head = kShown, tail = text.size() - kShown;
  const auto inside = [&](size_t at) { return (static_cast<unsigned char>(text[at]) & 0xc0) == 0x80; };
  while (head > 0 && inside(head)) --head;
  while (tail < text.size() && inside(tail)) ++tail;
  return fmt::format("{} ... {} bytes ... {}", text.substr(0, head), tail - head, text.substr(tail));
}

Json with_short_texts(const Json& value) {
  if (value.is_string()) return shortened(value.get_ref<const std::string&>());
  if (!value.is_structured()) return value;
  Json out = value.is_array() ? Json::array() : Json::object();
  for (const auto& [key, item] : value.items()) value.is_array() ? out.push_back(with_short_texts(item)) : static_cast<void>(out[key] = with_short_texts(item));
  return out;
}

Json shown_input(const Json& body, int level) {
  if (level >= 3) return body;
  if (level == 2) return with_short_texts(body);
  Json out = Json::object();
  for (const auto& [key, value] : body.items()) {
    const bool is_text = key == "messages" || key == "prompt" || key == "input" || key == "text" || key == "input_ids" || key == "tools" || key == "system" || key == "instructions";
    const bool is_metadata = key == "model" || key == "stream" || key == "rid" || key == "n";
    if (level == 1 ? !is_text : is_metadata) out[key] = value;
  }
  return out;
}

// What an event of any of the formats adds to the reply's text.
std::string added_text(const Json& event) {
  const auto text_at = [](const Json& object, const char* key) { return object.is_object() && object.contains(key) && object[key].is_string() ? object[key].get<std::string>() : std::string(); };
  if (event.contains("choices")) {
    std::string out;
    for (const Json& choice : event["choices"]) {
      out += text_at(choice, "text");
      if (choice.contains("delta")) out += text_at(choice["delta"], "reasoning_content") + text_at(choice["delta"], "content");
      if (!choice.contains("delta") || !choice["delta"].contains("tool_calls")) continue;
      for (const Json& call : choice["delta"]["tool_calls"]) out += text_at(call["function"], "name") + text_at(call["function"], "arguments");
    }
    return out;
  }
  if (!event.contains("delta")) return "";
  const Json& delta = event["delta"];
  return delta.is_string() ? delta.get<std::string>() : text_at(delta, "text") + text_at(delta, "thinking") + text_at(delta, "partial_json");
}

class FollowedExchange final : public ForwardingExchange {
 public:
  FollowedExchange(ExchangePtr inner, RequestLog& log, const HttpRequest& request) : ForwardingExchange(std::move(inner)), log_(log), began_(monotonic_seconds()) {
    line_ = {{"event", "request.finished"}, {"rid", request.id}, {"route", request.path}};
  }
  ~FollowedExchange() override {
    if (!over_) end(0);
  }
  void respond(HttpResponse response) override {
    Json out = Json::parse(response.body, nullptr, false);
    if (response.status >= 400) {
      line_["error"] = out.is_object() && out.contains("error") ? out["error"].value("message", "") : "";
    } else if (log_.level() >= 2) {
      line_["out"] = log_.level() >= 3 ? std::move(out) : with_short_texts(out);
    }
    end(response.status);
    ForwardingExchange::respond(std::move(response));
  }
  void start_events() override {
    stream_ = true;
    ForwardingExchange::start_events();
  }
  void event(std::string data, std::string_view name) override {
    if (const Json event = log_.level() >= 2 ? Json::parse(data, nullptr, false) : Json(); event.is_object()) {
      if (const auto whole = event.contains("meta_info") ? event.value("text", "") : ""; whole.starts_with(text_)) {
        text_ = whole.empty() ? text_ : whole;  // /generate sends all so far, unless it is told otherwise
      } else {
        text_ += whole;
      }
      text_ += added_text(event);
      if (event.contains("error") && event["error"].is_object()) line_["error"] = event["error"].value("message", "");
    }
    ForwardingExchange::event(std::move(data), name);
  }
  void finish() override {
    end(200);
    ForwardingExchange::finish();
  }

 private:
  void end(int status) {
    if (std::exchange(over_, true)) return;
    line_["status"] = status;
    line_["stream"] = stream_;
    line_["seconds"] = monotonic_seconds() - began_;
    if (stream_ && log_.level() >= 2) line_["out"] = {{"text", log_.level() >= 3 ? text_ : shortened(text_)}};
    log_.finished(std::move(line_));
  }

  RequestLog& log_;
  double began_;
  Json line_;
  std::string text_;
  bool stream_ = false, over_ = false;
};
}  // namespace

RequestLog::RequestLog(RequestLogOptions options) : options_(std::move(options)) {
  if (options_.targets.empty()) options_.targets = {"stdout"};
  for (const std::string& target : options_.targets) {
    if (!options_.enabled || target == "stdout") continue;
    std::error_code error;
    std::filesystem::create_directories(target, error);
    if (error) raise(ErrorCode::unavailable, "--log-requests-target {}: {}", target, error.message());
  }
}

RequestLog::~RequestLog() = default;

void RequestLog::received(const HttpRequest& request, const Json& body) {
  const auto line = [&](Json shown) { return Json{{"event", "request.received"}, {"rid", request.id}, {"route", request.path}, {"peer", request.peer}, {"obj", std::move(shown)}}; };
  if (options_.recent) keep(line(request.body.size() > RecentRequests::kMaxLineBytes ? with_short_texts(body) : body));
  if (options_.enabled) write("Receive", line(shown_input(body, options_.level)));
}

ExchangePtr RequestLog::follow(ExchangePtr inner, const HttpRequest& request) { return std::make_shared<FollowedExchange>(std::move(inner), *this, request); }

void RequestLog::finished(Json line) {
  if (options_.recent) {
    Json kept = line;
    kept.erase("out");
    keep(std::move(kept));
  }
  if (options_.enabled) write("Finish", std::move(line));
}

namespace {
std::string timed(const Json& line) {
  Json out = {{"time", time_text("%Y-%m-%dT%H:%M:%SZ")}};
  out.update(line);
  return dump(out);
}
}  // namespace

void RequestLog::keep(const Json& line) { options_.recent->add(timed(line)); }

void RequestLog::write(const char* word, Json line) {
  const std::string text = timed(line);
  const std::lock_guard lock(mutex_);
  for (const std::string& target : options_.targets) {
    if (target == "stdout" && !options_.json) {
      log_line(LogLevel::info, fmt::format("{}: {}", word, text));
      continue;
    }
    const std::string path = target == "stdout" ? "" : fmt::format("{}/requests-{}.jsonl", target, time_text("%Y%m%d_%H"));
    std::FILE* file = path.empty() ? stdout : std::fopen(path.c_str(), "a");
    if (!file) continue;
    std::fwrite((text + "\n").data(), 1, text.size() + 1, file);
    path.empty() ? std::fflush(file) : std::fclose(file);
  }
}
}  // namespace nibble
