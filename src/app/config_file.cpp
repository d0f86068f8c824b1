#include "app/config_file.h"

#include <nlohmann/json.hpp>
#include <optional>

namespace nibble {
namespace {
constexpr std::string_view kSpace = " \t\r";

std::string_view trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(kSpace);
  return begin == std::string_view::npos ? std::string_view() : text.substr(begin, text.find_last_not_of(kSpace) - begin + 1);
}

// A value as it is written, without a comment behind it; nullopt: a quote is not closed, or something follows it.
std::optional<std::string> scalar(std::string_view text) {
  if (text.starts_with('"') || text.starts_with('\'')) {
    const char quote = text[0];
    std::string out;
    size_t at = 1;
    for (; at < text.size() && text[at] != quote; ++at) {
      if (quote == '"' && text[at] == '\\' && at + 1 < text.size()) ++at;
      out += text[at];
    }
    if (at >= text.size()) return std::nullopt;
    const std::string_view rest = trimmed(text.substr(at + 1));
    return rest.empty() || rest.starts_with('#') ? std::optional(out) : std::nullopt;
  }
  for (size_t at = text.find('#'); at != std::string_view::npos; at = text.find('#', at + 1)) {
    if (at > 0 && kSpace.find(text[at - 1]) != std::string_view::npos) return std::string(trimmed(text.substr(0, at)));
  }
  return std::string(text);
}
}  // namespace

Result<std::vector<ConfigEntry>> parse_config(std::string_view text) {
  std::vector<ConfigEntry> out;
  const size_t first = text.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos) return out;
  if (text[first] == '{') {
    const auto object = nlohmann::ordered_json::parse(text, nullptr, false);
    if (!object.is_object()) return fail(ErrorCode::invalid_argument, "wanted a JSON object of option names and values, or lines of name: value");
    for (const auto& [name, value] : object.items()) out.push_back({name, value.is_string() ? value.get<std::string>() : value.dump(), value.is_boolean()});
    return out;
  }
  int number = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view line = text.substr(at, end - at), content = trimmed(line);
    at = end + 1;
    ++number;
    if (content.empty() || content.starts_with('#') || (content == "---" && out.empty())) continue;
    if (line[0] == ' ' || line[0] == '\t' || content.starts_with("- ")) return fail(ErrorCode::invalid_argument, "line {}: lists and nesting are not supported; one name: value a line", number);
    const size_t colon = content.find(':');
    if (colon == std::string_view::npos || (colon + 1 < content.size() && kSpace.find(content[colon + 1]) == std::string_view::npos)) {
      return fail(ErrorCode::invalid_argument, "line {}: '{}', wanted name: value", number, content);
    }
    const std::string_view given = trimmed(content.substr(colon + 1));
    const auto value = scalar(given);
    if (!value) return fail(ErrorCode::invalid_argument, "line {}: a quote is not closed, or something follows it", number);
    if (value->empty() && !given.starts_with('"') && !given.starts_with('\'')) return fail(ErrorCode::invalid_argument, "line {}: {} has no value", number, content.substr(0, colon));
    out.push_back({std::string(trimmed(content.substr(0, colon))), *value, !given.starts_with('"') && !given.starts_with('\'') && (*value == "true" || *value == "false")});
  }
  return out;
}
}  // namespace nibble
