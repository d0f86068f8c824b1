#include "text/schema_merge.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

namespace nibble {
bool is_annotation(const std::string& keyword) {
  static const std::set<std::string> kAnnotations{"$schema", "$id",        "id",       "$comment",  "$anchor",        "$defs",           "definitions",   "title",   "description", "default",
                                                  "example", "examples",   "readOnly", "writeOnly", "deprecated",     "contentEncoding", "contentMediaType", "discriminator", "xml",
                                                  "externalDocs", "$vocabulary"};
  return kAnnotations.contains(keyword) || keyword.starts_with("x-");
}

bool is_known_keyword(const std::string& keyword) {
  static const std::set<std::string> kKnown{"type",      "properties", "required",  "additionalProperties", "enum",    "const",    "items",            "prefixItems",      "additionalItems", "minItems",
                                            "maxItems",  "minLength",  "maxLength", "pattern",              "minimum", "maximum",  "exclusiveMinimum", "exclusiveMaximum", "anyOf",           "oneOf",
                                            "allOf",     "$ref",       "format",    "nullable",             "minProperties", "maxProperties", "patternProperties", "unevaluatedProperties", "unevaluatedItems",
                                            "multipleOf", "uniqueItems"};
  return kKnown.contains(keyword);
}

void refuse_schema(const std::string& keyword, const std::string& place, const std::string& why) {
  throw Error(ErrorCode::invalid_argument, fmt::format("the schema's keyword '{}' at {}: {}", keyword, place.empty() ? "#" : place, why));
}

void check_shape(const SchemaJson& schema, const std::string& place) {
  const auto want = [&](const char* keyword, bool good, const char* wanted) {
    if (!good) refuse_schema(keyword, place, fmt::format("must be {}", wanted));
  };
  const auto is_count = [](const SchemaJson& v) { return v.is_number() && v.get<double>() >= 0 && v.get<double>() == static_cast<double>(static_cast<int64_t>(std::min(v.get<double>(), 1e15))); };
  const auto is_schema = [](const SchemaJson& v) { return v.is_object() || v.is_boolean(); };
  const auto all = [](const SchemaJson& v, auto test) { return std::all_of(v.begin(), v.end(), test); };
  const auto is_string = [](const SchemaJson& v) { return v.is_string(); };
  static const std::set<std::string> kTypes{"object", "array", "string", "number", "integer", "boolean", "null"};
  const auto is_type = [](const SchemaJson& v) { return v.is_string() && kTypes.contains(v.get<std::string>()); };
  for (const auto& [keyword, value] : schema.items()) {
    const char* k = keyword.c_str();
    if (keyword == "type") {
      want(k, value.is_array() ? !value.empty() && all(value, is_type) : is_type(value), "one or more of object, array, string, number, integer, boolean, null");
    } else if (keyword == "properties" || keyword == "patternProperties" || keyword == "$defs" || keyword == "definitions") {
      want(k, value.is_object() && all(value, is_schema), "an object of schemas");
    } else if (keyword == "required") {
      want(k, value.is_array() && all(value, is_string), "an array of strings");
    } else if (keyword == "enum") {
      want(k, value.is_array() && !value.empty(), "an array with at least one value");
    } else if (keyword == "additionalProperties" || keyword == "unevaluatedProperties" || keyword == "unevaluatedItems" || keyword == "additionalItems") {
      want(k, is_schema(value), "a schema or a boolean");
    } else if (keyword == "items") {
      want(k, is_schema(value) || (value.is_array() && all(value, is_schema)), "a schema");
    } else if (keyword == "prefixItems" || keyword == "anyOf" || keyword == "oneOf" || keyword == "allOf") {
      want(k, value.is_array() && (keyword == "prefixItems" || !value.empty()) && all(value, is_schema), "an array of schemas");
    } else if (keyword.starts_with("min") || keyword.starts_with("max")) {
      const bool limit = keyword == "minimum" || keyword == "maximum";
      want(k, limit ? value.is_number() : !is_known_keyword(keyword) || is_count(value), limit ? "a number" : "a whole number that is not negative");
    } else if (keyword == "exclusiveMinimum" || keyword == "exclusiveMaximum") {
      want(k, value.is_number() || value.is_boolean(), "a number");
    } else if (keyword == "multipleOf") {
      want(k, value.is_number() && value.get<double>() > 0, "a number greater than 0");
    } else if (keyword == "pattern" || keyword == "format" || keyword == "$ref") {
      want(k, value.is_string(), "a string");
    } else if (keyword == "nullable" || keyword == "uniqueItems") {
      want(k, value.is_boolean(), "a boolean");
    }
  }
}

const SchemaJson& resolve_reference(const SchemaJson& root, const std::string& reference, const std::string& place) {
  if (reference == "#") return root;
  if (!reference.starts_with("#/")) refuse_schema("$ref", place, fmt::format("'{}' leads outside of the schema; only '#/...' is supported", reference));
  try {
    // The fragment of a URI: %25 and the like first, then the pointer.
    std::string pointer;
    for (size_t i = 1; i < reference.size(); ++i) {
      if (reference[i] == '%' && i + 2 < reference.size()) {
        pointer += static_cast<char>(std::stoi(reference.substr(i + 1, 2), nullptr, 16));
        i += 2;
      } else {
        pointer += reference[i];
      }
    }
    const SchemaJson& found = root.at(SchemaJson::json_pointer(pointer));
    if (found.is_object() || found.is_boolean()) return found;
  } catch (const std::exception&) {
  }
  refuse_schema("$ref", place, fmt::format("'{}' leads nowhere", reference));
}

const char* format_pattern(const std::string& format) {
  static const std::string kDate = R"([0-9]{4}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8])))";
  static const std::string kTime = R"(([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9]))";
  static const std::string kDateTime = kDate + "T" + kTime;
  static const std::string kByte = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])", kIpv4 = kByte + R"(\.)" + kByte + R"(\.)" + kByte + R"(\.)" + kByte;
  static const std::string kHost = R"([A-Za-z0-9]([A-Za-z0-9-]{0,30}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,30}[A-Za-z0-9])?){0,4})";
  static const std::string kEmail = R"([A-Za-z0-9_%+-]{1,32}(\.[A-Za-z0-9_%+-]{1,32})?@)" + kHost;
  static const std::string kUri = "https?://" + kHost + R"((:[0-9]{2,4})?(/[A-Za-z0-9._~%+-]{0,64}){0,8}(\?[A-Za-z0-9._~=&+-]{1,128})?(#[A-Za-z0-9._~-]{1,64})?)";
  static const std::string kDuration = "P([0-9]{1,4}D(T[0-9]{1,4}H)?|T[0-9]{1,4}[HMS]|[0-9]{1,4}[YMW])";
  static const std::map<std::string, const char*> all{{"date", kDate.c_str()}, {"time", kTime.c_str()}, {"date-time", kDateTime.c_str()}, {"email", kEmail.c_str()}, {"ipv4", kIpv4.c_str()},
                                                      {"ipv6", "([0-9a-f]{1,4}:){7}[0-9a-f]{1,4}"}, {"hostname", kHost.c_str()}, {"uri", kUri.c_str()}, {"duration", kDuration.c_str()},
                                                      {"uuid", "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"}};
  const auto found = all.find(format);
  return found == all.end() ? nullptr : found->second;
}

namespace {
SchemaJson types_of(const SchemaJson& type) { return type.is_array() ? type : SchemaJson::array({type}); }

SchemaJson common_types(const SchemaJson& a, const SchemaJson& b) {
  SchemaJson out = SchemaJson::array();
  for (const SchemaJson& x : types_of(a)) {
    for (const SchemaJson& y : types_of(b)) {
      SchemaJson both;
      if (x == y || (x == "integer" && y == "number")) both = x;
      if (x == "number" && y == "integer") both = y;
      if (!both.is_null() && std::find(out.begin(), out.end(), both) == out.end()) out.push_back(both);
    }
  }
  return out;
}

SchemaJson merged_subschema(const SchemaJson& a, const SchemaJson& b, const std::string& place) {
  if (a.is_boolean()) return a.get<bool>() ? b : a;
  if (b.is_boolean()) return b.get<bool>() ? a : b;
  return merge_schemas(a, b, place);
}
}  // namespace

SchemaJson merge_schemas(const SchemaJson& a, const SchemaJson& b, const std::string& place) {
  if (a.is_boolean() || b.is_boolean()) return merged_subschema(a, b, place);
  SchemaJson out = a;
  for (const auto& [keyword, value] : b.items()) {
    if (is_annotation(keyword) || !out.contains(keyword)) {
      if (!out.contains(keyword)) out[keyword] = value;
      continue;
    }
    SchemaJson& mine = out[keyword];
    if (mine == value) continue;
    if (keyword == "type") {
      mine = common_types(mine, value);
      if (mine.empty()) return false;
    } else if (keyword == "properties") {
      for (const auto& [name, property] : value.items()) mine[name] = mine.contains(name) ? merged_subschema(mine[name], property, place + "/properties/" + name) : property;
    } else if (keyword == "required") {
      for (const SchemaJson& name : value) {
        if (std::find(mine.begin(), mine.end(), name) == mine.end()) mine.push_back(name);
      }
    } else if (keyword == "additionalProperties" || keyword == "unevaluatedProperties" || keyword == "items" || keyword == "additionalItems" || keyword == "unevaluatedItems") {
      if (mine.is_array() || value.is_array()) refuse_schema(keyword, place, "two arrays of items cannot be joined");
      mine = merged_subschema(mine, value, place + "/" + keyword);
    } else if (keyword == "enum") {
      SchemaJson both = SchemaJson::array();
      for (const SchemaJson& x : mine) {
        if (std::find(value.begin(), value.end(), x) != value.end()) both.push_back(x);
      }
      if (both.empty()) return false;
      mine = both;
    } else if (keyword == "const") {
      return false;
    } else if (keyword == "nullable") {
      mine = false;
    } else if (keyword == "uniqueItems") {
      mine = true;
    } else if (keyword.starts_with("min") || keyword == "exclusiveMinimum") {
      if (!mine.is_number() || !value.is_number()) refuse_schema(keyword, place, "booleans cannot be joined");
      if (value.get<double>() > mine.get<double>()) mine = value;
    } else if (keyword.starts_with("max") || keyword == "exclusiveMaximum") {
      if (!mine.is_number() || !value.is_number()) refuse_schema(keyword, place, "booleans cannot be joined");
      if (value.get<double>() < mine.get<double>()) mine = value;
    } else if (keyword == "allOf") {
      for (const SchemaJson& part : value) mine.push_back(part);
    } else {
      refuse_schema(keyword, place, "two different ones for one value cannot be joined");
    }
  }
  // What one side's additionalProperties says holds for the properties that only the other side names.
  for (const auto& [here, there] : {std::pair{&a, &b}, std::pair{&b, &a}}) {
    if (!here->contains("additionalProperties") || !there->contains("properties")) continue;
    for (const auto& [name, property] : (*there)["properties"].items()) {
      if (here->contains("properties") && (*here)["properties"].contains(name)) continue;
      out["properties"][name] = merged_subschema(property, (*here)["additionalProperties"], place + "/properties/" + name);
    }
  }
  return out;
}
}  // namespace nibble
