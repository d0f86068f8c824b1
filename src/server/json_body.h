// Request bodies: strict JSON, and typed access to their fields with errors that name the field's path.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace nibble {
using Json = nlohmann::ordered_json;

// RFC 8259 and no more: no byte order mark, comments, trailing commas, NaN or second value; depth and members within base/json_shape.h; of equal keys the last wins; a lone surrogate
// escape becomes U+FFFD. The body must be an object.
Result<Json> parse_json_body(std::string_view text);

// The fields of an object. null counts as absent. Every getter throws Error(invalid_argument) with the field's path when the type or range is wrong.
class Fields {
 public:
  explicit Fields(const Json& object, std::string path = {});

  const Json* find(const char* key) const;  // nullptr: absent or null
  bool has(const char* key) const { return find(key) != nullptr; }
  std::optional<bool> boolean(const char* key) const;
  std::optional<int64_t> integer(const char* key, int64_t low, int64_t high) const;  // 2.0 is an integer, "2" and true are not
  std::optional<double> number(const char* key, double low, double high) const;
  std::optional<std::string> string(const char* key) const;
  std::vector<int32_t> ids(const char* key, int32_t vocab_size) const;  // null elements are dropped
  std::string path(const std::string& key) const;
  [[noreturn]] void reject(const std::string& key, std::string message) const;

 private:
  const Json* object_;
  std::string path_;
};

std::vector<int32_t> token_ids(const Json& value, const std::string& path, int32_t vocab_size);  // as Fields::ids, of what stands at `path`
std::string dump(const Json& json);  // compact, invalid UTF-8 replaced
void append_string(std::string& out, std::string_view text);  // dump(text), at once where the text stands in JSON as it is
}  // namespace nibble
