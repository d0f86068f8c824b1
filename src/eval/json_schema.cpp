#include "eval/json_schema.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <regex>

namespace nibble {
namespace {
using Json = nlohmann::ordered_json;
constexpr int kMaxDepth = 64;

bool has_type(const Json& value, const std::string& type) {
  if (type == "object") return value.is_object();
  if (type == "array") return value.is_array();
  if (type == "string") return value.is_string();
  if (type == "boolean") return value.is_boolean();
  if (type == "null") return value.is_null();
  if (type == "number") return value.is_number();
  if (type == "integer") return value.is_number_integer() || (value.is_number_float() && value.get<double>() == static_cast<double>(static_cast<int64_t>(value.get<double>())));
  return false;
}

int64_t characters(const std::string& s) {
  int64_t n = 0;
  for (const char c : s) n += (static_cast<unsigned char>(c) & 0xc0) != 0x80;
  return n;
}

class Checker {
 public:
  explicit Checker(const Json& root) : root_(root) {}

  std::string check(const Json& schema, const Json& value, const std::string& path, int depth) const {
    if (depth > kMaxDepth) return path + ": nested too deeply";
    if (schema.is_boolean()) return schema.get<bool>() ? "" : path + ": nothing is allowed here";
    if (!schema.is_object()) return "";
    const auto bad = [&](const std::string& what) { return (path.empty() ? std::string("the value") : path) + ": " + what; };
    if (schema.contains("$ref")) {
      const std::string ref = schema["$ref"];
      if (!ref.starts_with("#")) return bad("a reference to another document");
      const Json::json_pointer pointer(ref.substr(1));
      if (!root_.contains(pointer)) return bad("no such definition: " + ref);
      if (const std::string p = check(root_[pointer], value, path, depth + 1); !p.empty()) return p;
    }
    if (schema.contains("type")) {
      bool good = false;
      for (const Json& t : schema["type"].is_array() ? schema["type"] : Json::array({schema["type"]})) good = good || has_type(value, t);
      if (!good) return bad("wanted the type " + schema["type"].dump());
    }
    if (schema.contains("enum") && std::find(schema["enum"].begin(), schema["enum"].end(), value) == schema["enum"].end()) return bad("not one of " + schema["enum"].dump());
    if (schema.contains("const") && schema["const"] != value) return bad("not " + schema["const"].dump());
    const auto bound = [&](const char* key, double v, auto holds) { return !schema.contains(key) || holds(v, schema[key].get<double>()); };
    if (value.is_number()) {
      const double v = value.get<double>();
      if (!bound("minimum", v, std::greater_equal<>()) || !bound("maximum", v, std::less_equal<>()) || !bound("exclusiveMinimum", v, std::greater<>()) || !bound("exclusiveMaximum", v, std::less<>())) {
        return bad("out of range");
      }
    }
    if (value.is_string()) {
      const auto n = static_cast<double>(characters(value));
      if (!bound("minLength", n, std::greater_equal<>()) || !bound("maxLength", n, std::less_equal<>())) return bad("wrong length");
      if (schema.contains("pattern") && !std::regex_search(value.get<std::string>(), std::regex(schema["pattern"].get<std::string>(), std::regex::ECMAScript))) return bad("does not match the pattern");
    }
    if (value.is_array()) {
      const auto n = static_cast<double>(value.size());
      if (!bound("minItems", n, std::greater_equal<>()) || !bound("maxItems", n, std::less_equal<>())) return bad("wrong number of items");
      if (schema.contains("items")) {
        for (size_t i = 0; i < value.size(); ++i) {
          if (const std::string p = check(schema["items"], value[i], fmt::format("{}[{}]", path, i), depth + 1); !p.empty()) return p;
        }
      }
    }
    if (value.is_object()) {
      if (schema.contains("required")) {
        for (const Json& key : schema["required"]) {
          if (!value.contains(key.get<std::string>())) return bad("lacks '" + key.get<std::string>() + "'");
        }
      }
      for (const auto& [key, v] : value.items()) {
        const std::string inner = path.empty() ? key : path + "." + key;
        if (schema.contains("properties") && schema["properties"].contains(key)) {
          if (const std::string p = check(schema["properties"][key], v, inner, depth + 1); !p.empty()) return p;
        } else if (schema.contains("additionalProperties")) {
          if (schema["additionalProperties"] == Json(false)) return bad("has the unknown key '" + key + "'");
          if (const std::string p = check(schema["additionalProperties"], v, inner, depth + 1); !p.empty()) return p;
        }
      }
    }
    const auto count = [&](const char* key) {
      int good = 0;
      for (const Json& s : schema[key]) good += check(s, value, path, depth + 1).empty();
      return good;
    };
    if (schema.contains("anyOf") && count("anyOf") == 0) return bad("fits none of anyOf");
    if (schema.contains("oneOf") && count("oneOf") != 1) return bad("does not fit exactly one of oneOf");
    if (schema.contains("allOf")) {
      for (const Json& s : schema["allOf"]) {
        if (const std::string p = check(s, value, path, depth + 1); !p.empty()) return p;
      }
    }
    return "";
  }

 private:
  const Json& root_;
};
}  // namespace

std::string schema_problem(const Json& schema, const Json& value) {
  try {
    return Checker(schema).check(schema, value, "", 0);
  } catch (const std::exception& error) {
    return std::string("the schema is broken: ") + error.what();
  }
}
}  // namespace nibble
