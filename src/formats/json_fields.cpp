#include "formats/json_fields.h"

#include <nlohmann/json.hpp>

#include "base/error.h"

namespace nibble {
using nlohmann::json;

JsonFields::JsonFields(const json& object, std::string_view source, std::string_view path) : object_(&object), source_(source), path_(path) {
  if (!object.is_object()) raise(ErrorCode::corrupt, "{}: {} is not an object", source_, path_.empty() ? "the file" : path_);
}

const json* JsonFields::find(const char* key) const {
  const auto at = object_->find(key);
  return at == object_->end() || at->is_null() ? nullptr : &*at;
}

bool JsonFields::has(const char* key) const { return find(key) != nullptr; }

void JsonFields::bad(const char* key, std::string_view wanted) const {
  const json* found = find(key);
  std::string text = found ? found->dump(-1, ' ', false, json::error_handler_t::replace) : "nothing";
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  raise(ErrorCode::corrupt, "{}: {}{}{} is {}, wanted {}", source_, path_, path_.empty() ? "" : ".", key, text, wanted);
}

std::optional<int64_t> JsonFields::integer(const char* key, int64_t low, int64_t high) const {
  const json* value = find(key);
  if (!value) return std::nullopt;
  const auto in_range = [&](double x) { return x >= static_cast<double>(low) && x <= static_cast<double>(high) && x == std::floor(x); };
  if (!value->is_number() || !in_range(value->get<double>())) bad(key, fmt::format("an integer in [{}, {}]", low, high));
  return value->is_number_float() ? static_cast<int64_t>(value->get<double>()) : value->get<int64_t>();
}

std::optional<double> JsonFields::number(const char* key) const {
  const json* value = find(key);
  if (!value) return std::nullopt;
  if (!value->is_number() || !(std::fabs(value->get<double>()) <= std::numeric_limits<float>::max())) bad(key, "a finite number");
  return value->get<double>();
}

std::optional<bool> JsonFields::boolean(const char* key) const {
  const json* value = find(key);
  if (!value) return std::nullopt;
  if (!value->is_boolean()) bad(key, "true or false");
  return value->get<bool>();
}

std::optional<std::string> JsonFields::string(const char* key) const {
  const json* value = find(key);
  if (!value) return std::nullopt;
  if (!value->is_string()) bad(key, "a string");
  return value->get<std::string>();
}

std::vector<int32_t> JsonFields::integers(const char* key) const {
  const json* value = find(key);
  if (!value) return {};
  std::vector<int32_t> out;
  const auto add = [&](const json& item) {
    if (!item.is_number_integer() || item.get<double>() < 0 || item.get<double>() > std::numeric_limits<int32_t>::max()) {
      bad(key, "a token id or an array of token ids");
    }
    out.push_back(item.get<int32_t>());
  };
  if (value->is_array()) {
    for (const json& item : *value) add(item);
  } else {
    add(*value);
  }
  return out;
}

std::optional<JsonFields> JsonFields::object(const char* key) const {
  const json* value = find(key);
  if (!value) return std::nullopt;
  return JsonFields(*value, source_, path_.empty() ? key : path_ + "." + key);
}

json parse_json_object(std::string_view text, std::string_view source) {
  const json::parser_callback_t limit = [&](int depth, json::parse_event_t, json&) {
    if (depth > 64) raise(ErrorCode::corrupt, "{}: nests deeper than 64", source);
    return true;
  };
  json value = json::parse(text, limit, /*allow_exceptions=*/false);
  if (value.is_discarded()) raise(ErrorCode::corrupt, "{}: not valid JSON", source);
  if (!value.is_object()) raise(ErrorCode::corrupt, "{}: not a JSON object", source);
  return value;
}
}  // namespace nibble
