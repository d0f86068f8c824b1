#include "text/chat_messages.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "base/json_shape.h"

namespace nibble {
namespace {
using json = nlohmann::ordered_json;

constexpr int kMaxArgumentsDepth = 128;

// Raised inside this file and returned at its edge.
[[noreturn]] void reject(std::string param, std::string message) { throw Error(ErrorCode::invalid_argument, std::move(message), std::move(param)); }

std::string member_text(const json& object, const char* key, const std::string& path) {
  const auto at = object.find(key);
  if (at == object.end() || !at->is_string()) reject(path + "." + key, fmt::format("'{}' must be a string", key));
  return at->get<std::string>();
}

class Normalizer {
 public:
  Normalizer(json& messages, const NormalizeOptions& options) : messages_(messages), options_(options) {}

  std::vector<MediaReference> run() {
    if (!messages_.is_array() || messages_.empty()) reject("messages", "'messages' must be a non-empty array");
    for (size_t i = 0; i < messages_.size(); ++i) normalize(messages_[i], fmt::format("messages[{}]", i));
    if (options_.name_tool_messages) name_tool_messages();
    return std::move(media_);
  }

 private:
  void normalize(json& message, const std::string& path) {
    if (!message.is_object()) reject(path, "a message must be an object");
    const std::string role = check_role(message, path);
    for (auto at = message.begin(); at != message.end();) at = at->is_null() ? message.erase(at) : std::next(at);
    if (!message.contains("content")) {
      if (role == "user") reject(path + ".content", "a user message must have content");
      message["content"] = "";
    }
    normalize_content(message, role, path + ".content");
    if (message.contains("tool_calls")) normalize_tool_calls(message["tool_calls"], path + ".tool_calls");
    for (const char* key : {"reasoning_content", "reasoning"}) {
      if (!message.contains(key)) continue;
      if (!message[key].is_string()) reject(path + "." + key, fmt::format("'{}' must be a string", key));
      // The template ends a thought with a newline of its own.
      std::string text = message[key];
      if (text.ends_with('\n')) text.pop_back();
      message[key] = text;
    }
  }

  static std::string check_role(json& message, const std::string& path) {
    if (!message.contains("role")) reject(path + ".role", "a message must have a role");
    if (!message["role"].is_string()) reject(path + ".role", "'role' must be a string");
    std::string role = message["role"];
    std::transform(role.begin(), role.end(), role.begin(), [](unsigned char c) { return c < 0x80 ? static_cast<char>(std::tolower(c)) : static_cast<char>(c); });
    if (role == "function") role = "tool";
    for (const char* known : {"system", "developer", "user", "assistant", "tool"}) {
      if (role == known) {
        message["role"] = role;
        return role;
      }
    }
    reject(path + ".role", fmt::format("unknown role '{}'; wanted system, developer, user, assistant or tool", role));
  }

  void normalize_content(json& message, const std::string& role, const std::string& path) {
    json& content = message["content"];
    if (content.is_string()) return;
    if (!content.is_array()) reject(path, "'content' must be a string or an array of parts");
    bool all_text = true;
    for (size_t i = 0; i < content.size(); ++i) {
      json& part = content[i];
      const std::string part_path = fmt::format("{}[{}]", path, i);
      if (part.is_string()) part = {{"type", "text"}, {"text", part}};
      normalize_part(part, role, part_path);
      all_text = all_text && part["type"] == "text";
      if ((role == "system" || role == "developer") && part["type"] != "text") reject(part_path + ".type", fmt::format("a {} message takes text only", role));
    }
    const bool joined = role == "system" || role == "developer" || (role == "tool" && all_text);
    if (!joined) return;
    std::string text;
    for (size_t i = 0; i < content.size(); ++i) text += (i ? (role == "tool" ? " " : "\n") : "") + content[i]["text"].get<std::string>();
    content = text;
  }

  void normalize_part(json& part, const std::string& role, const std::string& path) {
    if (!part.is_object()) reject(path, "a content part must be an object");
    if (!part.contains("type") || !part["type"].is_string()) reject(path + ".type", "a content part must have a type");
    const std::string type = part["type"];
    if (type == "text" || type == "input_text") {
      part = {{"type", "text"}, {"text", member_text(part, "text", path)}};
    } else if (type == "refusal") {
      part = {{"type", "text"}, {"text", member_text(part, "refusal", path)}};
    } else if (type == "image_url" || type == "input_image") {
      take_media(part, MediaKind::image, "image_url", "image", role, path);
    } else if (type == "audio_url") {
      take_media(part, MediaKind::audio, "audio_url", "audio", role, path);
    } else if (type == "video_url") {
      take_media(part, MediaKind::video, "video_url", "video", role, path);
    } else if (type == "input_audio") {
      take_input_audio(part, role, path);
    } else {
      reject(path + ".type", fmt::format("unknown content part type '{}'", type));
    }
  }

  static void refuse_from_assistant(const std::string& role, const std::string& path) {
    if (role == "assistant") reject(path + ".type", "an assistant message cannot hold media");
  }

  void take_media(json& part, MediaKind kind, const char* key, const char* type, const std::string& role, const std::string& path) {
    refuse_from_assistant(role, path);
    MediaReference media{.kind = kind, .url = {}, .detail = {}, .param = path};
    if (!part.contains(key)) reject(path + "." + key, fmt::format("'{}' is missing", key));
    const json& source = part[key];
    if (source.is_string()) {
      media.url = source;
    } else if (source.is_object() && source.contains("url") && source["url"].is_string()) {
      media.url = source["url"];
      if (source.contains("detail") && source["detail"].is_string()) media.detail = source["detail"];
    } else {
      reject(path + "." + key, fmt::format("'{}' must be a string or an object with a url", key));
    }
    if (part.contains("detail") && part["detail"].is_string()) media.detail = part["detail"];
    media_.push_back(std::move(media));
    part = {{"type", type}};
  }

  void take_input_audio(json& part, const std::string& role, const std::string& path) {
    refuse_from_assistant(role, path);
    if (!part.contains("input_audio") || !part["input_audio"].is_object()) reject(path + ".input_audio", "'input_audio' must be an object with data and format");
    const std::string data = member_text(part["input_audio"], "data", path + ".input_audio"), format = member_text(part["input_audio"], "format", path + ".input_audio");
    if (format != "wav" && format != "mp3") reject(path + ".input_audio.format", fmt::format("unknown audio format '{}'; wanted wav or mp3", format));
    media_.push_back({MediaKind::audio, fmt::format("data:audio/{};base64,{}", format == "wav" ? "wav" : "mpeg", data), {}, path});
    part = {{"type", "audio"}};
  }

  void normalize_tool_calls(json& calls, const std::string& path) {
    if (!calls.is_array()) reject(path, "'tool_calls' must be an array");
    for (size_t i = 0; i < calls.size(); ++i) {
      const std::string call_path = fmt::format("{}[{}].function", path, i);
      if (!calls[i].is_object() || !calls[i].contains("function") || !calls[i]["function"].is_object()) reject(call_path, "a tool call must have a function");
      json& function = calls[i]["function"];
      member_text(function, "name", call_path);
      json& arguments = function["arguments"];
      if (arguments.is_string()) {
        const std::string text = arguments;
        if (auto shape = check_json_shape(text, kMaxArgumentsDepth, &comparisons_left_); !shape) reject(call_path + ".arguments", "a call's 'arguments' are JSON that " + shape.error().message);
        const bool blank = text.find_first_not_of(" \t\r\n") == std::string::npos;
        arguments = blank ? json::object() : json::parse(text, nullptr, /*allow_exceptions=*/false);
      } else if (arguments.is_null()) {
        arguments = json::object();
      }
      if (!arguments.is_object()) reject(call_path + ".arguments", "'arguments' must be a JSON object");
    }
  }

  // A tool message without a name takes that of the call with its id in the nearest assistant message before it, else the call at its place.
  void name_tool_messages() {
    const auto is_tool = [&](size_t i) { return messages_[i]["role"] == "tool"; };
    for (size_t first = 0; first < messages_.size(); ++first) {
      if (!is_tool(first)) continue;
      size_t end = first;
      while (end < messages_.size() && is_tool(end)) ++end;
      name_answers(first, end);
      first = end - 1;
    }
  }

  // The tool messages [first, end), which follow one another.
  void name_answers(size_t first, size_t end) {
    const json* calls = first > 0 && messages_[first - 1]["role"] == "assistant" && messages_[first - 1].contains("tool_calls") ? &messages_[first - 1]["tool_calls"] : nullptr;
    std::unordered_map<std::string, const json*> by_id;
    for (size_t c = 0; calls && c < calls->size(); ++c) {
      if ((*calls)[c].contains("id")) by_id[(*calls)[c]["id"].dump()] = &(*calls)[c];
    }
    for (size_t i = first; i < end; ++i) {
      json& message = messages_[i];
      if (message.contains("name")) continue;
      const std::string path = fmt::format("messages[{}].tool_call_id", i);
      if (!calls) reject(path, "a tool message must follow an assistant message with tool calls, or have a name");
      const auto named = message.contains("tool_call_id") ? by_id.find(message["tool_call_id"].dump()) : by_id.end();
      if (named == by_id.end() && end - first != calls->size()) reject(path, "this tool message answers none of the calls before it");
      message["name"] = (named != by_id.end() ? *named->second : (*calls)[i - first])["function"]["name"];
    }
  }

  json& messages_;
  int64_t comparisons_left_ = kMaxJsonComparisons;  // over the arguments of all calls
  NormalizeOptions options_;
  std::vector<MediaReference> media_;
};
}  // namespace

Result<std::vector<MediaReference>> normalize_messages(json& messages, const NormalizeOptions& options) {
  try {
    return Normalizer(messages, options).run();
  } catch (Error& error) {
    return tl::unexpected(std::move(error));
  }
}
}  // namespace nibble
