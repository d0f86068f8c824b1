#include "server/json_body.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "base/json_shape.h"
#include "base/utf8.h"

namespace nibble {
namespace {
// \uD800..\uDFFF escapes without their other half, replaced by \uFFFD, because the parser refuses them.
std::string repair_surrogates(std::string_view text) {
  const auto code_at = [&](size_t at) -> int {
    if (at + 6 > text.size() || text[at] != '\\' || text[at + 1] != 'u') return -1;
    int code = 0;
    for (size_t i = at + 2; i < at + 6; ++i) {
      const char c = text[i];
      const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
      if (digit < 0) return -1;
      code = code * 16 + digit;
    }
    return code;
  };
  std::string out(text);
  for (size_t at = out.find('\\'); at != std::string::npos; at = out.find('\\', at)) {
    const int code = code_at(at);
    if (code < 0xd800 || code > 0xdfff) {
      at += 2;
      continue;
    }
    const int low = code <= 0xdbff ? code_at(at + 6) : -1;
    if (low >= 0xdc00 && low <= 0xdfff) {
      at += 12;
    } else {
      out.replace(at, 6, "\\uFFFD");
      at += 6;
    }
  }
  return out;
}
}  // namespace

Result<Json> parse_json_body(std::string_view text) {
  if (text.starts_with("\xEF\xBB\xBF")) return fail(ErrorCode::invalid_argument, "the body begins with a byte order mark, which JSON does not allow");
  if (!is_valid_utf8(text)) return fail(ErrorCode::invalid_argument, "the body is not valid UTF-8");
  if (auto shape = check_json_shape(text); !shape) return fail(ErrorCode::invalid_argument, "the body {}", shape.error().message);
  Json json = Json::parse(repair_surrogates(text), nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return fail(ErrorCode::invalid_argument, "the body is not valid JSON");
  if (!json.is_object()) return fail(ErrorCode::invalid_argument, "the body must be a JSON object");
  return json;
}

Fields::Fields(const Json& object, std::string path) : object_(&object), path_(std::move(path)) {
  if (!object.is_object()) throw Error(ErrorCode::invalid_argument, fmt::format("'{}' must be an object", path_), path_);
}

const Json* Fields::find(const char* key) const {
  const auto at = object_->find(key);
  return at == object_->end() || at->is_null() ? nullptr : &*at;
}

std::string Fields::path(const std::string& key) const { return path_.empty() ? key : path_ + "." + key; }

void Fields::reject(const std::string& key, std::string message) const { throw Error(ErrorCode::invalid_argument, std::move(message), path(key)); }

std::optional<bool> Fields::boolean(const char* key) const {
  const Json* value = find(key);
  if (!value) return std::nullopt;
  if (!value->is_boolean()) reject(key, fmt::format("'{}' must be true or false", key));
  return value->get<bool>();
}

std::optional<int64_t> Fields::integer(const char* key, int64_t low, int64_t high) const {
  const Json* value = find(key);
  if (!value) return std::nullopt;
  if (!value->is_number()) reject(key, fmt::format("'{}' must be an integer", key));
  const double number = value->get<double>();
  if (number != std::floor(number) || !std::isfinite(number)) reject(key, fmt::format("'{}' must be an integer", key));
  // 2^63 as a double is the first that does not fit.
  const bool fits = number >= -0x1p63 && number < 0x1p63 && (!value->is_number_unsigned() || value->get<uint64_t>() <= uint64_t{INT64_MAX});
  const int64_t integer = !fits ? 0 : value->is_number_float() ? static_cast<int64_t>(number) : value->get<int64_t>();
  if (!fits || integer < low || integer > high) {
    if (high != INT32_MAX && high != INT64_MAX) reject(key, fmt::format("'{}' must be between {} and {}", key, low, high));
    reject(key, number > 0 && (!fits || integer > high) ? fmt::format("'{}' must be at most {}", key, high) : fmt::format("'{}' must be at least {}", key, low));
  }
  return integer;
}

std::optional<double> Fields::number(const char* key, double low, double high) const {
  const Json* value = find(key);
  if (!value) return std::nullopt;
  if (!value->is_number()) reject(key, fmt::format("'{}' must be a number", key));
  const double number = value->get<double>();
  if (!std::isfinite(number) || number < low || number > high) reject(key, fmt::format("'{}' is {}, it must be between {} and {}", key, number, low, high));
  return number;
}

std::optional<std::string> Fields::string(const char* key) const {
  const Json* value = find(key);
  if (!value) return std::nullopt;
  if (!value->is_string()) reject(key, fmt::format("'{}' must be a string", key));
  return value->get<std::string>();
}

std::vector<int32_t> Fields::ids(const char* key, int32_t vocab_size) const {
  const Json* value = find(key);
  return value ? token_ids(*value, path(key), vocab_size) : std::vector<int32_t>();
}

std::vector<int32_t> token_ids(const Json& value, const std::string& path, int32_t vocab_size) {
  if (!value.is_array()) throw Error(ErrorCode::invalid_argument, fmt::format("'{}' must be an array of token ids", path), path);
  std::vector<int32_t> out;
  for (size_t i = 0; i < value.size(); ++i) {
    const Json& id = value[i];
    if (id.is_null()) continue;
    const bool right = id.is_number_integer() && id.get<double>() >= 0 && id.get<double>() < vocab_size;
    if (!right) throw Error(ErrorCode::invalid_argument, fmt::format("'{}' must hold token ids from 0 to {}", path, vocab_size - 1), fmt::format("{}[{}]", path, i));
    out.push_back(id.get<int32_t>());
  }
  return out;
}

std::string dump(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

void append_string(std::string& out, std::string_view text) {
  bool plain = true, ascii = true;
  for (const char c : text) {
    plain &= static_cast<unsigned char>(c) >= 0x20 && c != '"' && c != '\\';
    ascii &= static_cast<unsigned char>(c) < 0x80;
  }
  if (!plain || (!ascii && !is_valid_utf8(text))) {
    out += dump(text);
    return;
  }
  out += '"';
  out += text;
  out += '"';
}
}  // namespace nibble
