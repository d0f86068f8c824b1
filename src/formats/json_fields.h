// Typed access to the fields of a parsed configuration, with errors that name the file and the key. For .cpp files of this room.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace nibble {
// One JSON object of a file. null counts as absent.
class JsonFields {
 public:
  JsonFields(const nlohmann::json& object, std::string_view source, std::string_view path = {});  // raises corrupt: not an object

  bool has(const char* key) const;
  std::optional<int64_t> integer(const char* key, int64_t low = 0, int64_t high = std::numeric_limits<int32_t>::max()) const;
  std::optional<double> number(const char* key) const;
  std::optional<bool> boolean(const char* key) const;
  std::optional<std::string> string(const char* key) const;
  // An integer or an array of integers; empty when absent.
  std::vector<int32_t> integers(const char* key) const;
  std::optional<JsonFields> object(const char* key) const;
  const nlohmann::json& raw() const { return *object_; }
  [[noreturn]] void bad(const char* key, std::string_view wanted) const;

 private:
  const nlohmann::json* find(const char* key) const;  // nullptr: absent or null
  const nlohmann::json* object_;
  std::string source_, path_;
};

nlohmann::json parse_json_object(std::string_view text, std::string_view source);  // raises corrupt; nesting is limited to 64
}  // namespace nibble
