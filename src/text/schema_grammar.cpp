#include "text/schema_grammar.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "text/jinja_strings.h"
#include "text/number_grammar.h"
#include "text/regex_grammar.h"
#include "text/schema_merge.h"
#include "text/string_grammar.h"

namespace nibble {
namespace {
constexpr int kMaxNesting = 100;       // of schemas in schemas
constexpr int kMaxSchemas = 10'000;    // schemas met in all; references can multiply them
constexpr int kMaxNativeDepth = 6;     // of values that no schema describes; the parser of calls takes 64
constexpr int64_t kMaxCount = 100'000;  // minItems, maxLength and so on
using Expr = std::optional<std::string>;  // nullopt: no value fits

class Converter {
 public:
  Converter(const SchemaJson& root, const SchemaOptions& options, EbnfRules& rules, std::vector<std::string>& left_out) : root_(root), options_(options), rules_(rules), left_out_(left_out) {}

  std::string whole() {
    const Expr e = value(root_, "#", 0);
    if (!e) throw Error(ErrorCode::invalid_argument, "no value satisfies the schema");
    return *e;
  }
  std::string call_members() {
    SchemaJson schema = root_;
    if (schema.is_boolean() || schema.empty()) schema = {{"type", "object"}, {"properties", SchemaJson::object()}};
    if (!schema.contains("type") && !schema.contains("$ref") && !schema.contains("anyOf") && !schema.contains("oneOf") && !schema.contains("allOf")) schema["type"] = "object";
    if (!schema.contains("properties")) {
      const bool plain = schema.contains("type") && !schema.contains("additionalProperties") && !schema.contains("anyOf") && !schema.contains("oneOf") && !schema.contains("allOf") && !schema.contains("$ref");
      if (plain) schema["properties"] = SchemaJson::object();
    }
    schema = merge_schemas(schema, {{"type", "object"}}, "#");
    const Expr e = value(schema, "#", 0);
    if (!e) throw Error(ErrorCode::invalid_argument, "no object satisfies the schema");
    return *e;
  }
  std::string any_object() { return shared("object", [&] { return any_object_expr(0); }); }

 private:
  bool native() const { return options_.spelling == Spelling::native; }
  bool spaced() const { return !native() && options_.max_whitespace > 0; }
  // Between tokens of JSON: nothing, a blank, or a new line and its indentation; "" where nothing may stand. (Free white space draws weak models in.)
  std::string ws() {
    if (!spaced()) return "";
    return shared("ws", [&] { return fmt::format("\"\" | \" \" | \"\\n\" [ \\t]{{0,{}}}", options_.max_whitespace - 1); }) + " ";
  }
  std::string comma() { return native() ? "\",\" " : spaced() ? "\",\" " + ws() : "\", \" "; }
  std::string colon() { return native() ? "\":\" " : spaced() ? "\":\" " + ws() : "\": \" "; }
  std::string open(const char* bracket) { return fmt::format("\"{}\" {}", bracket, ws()); }
  static std::string close(const char* bracket) { return fmt::format("\"{}\"", bracket); }
  std::string gap() { return ws(); }  // behind every member and item

  // A rule that all schemas of a grammar share.
  template <typename F>
  std::string shared(const std::string& key, F expression) {
    return rules_.shared((native() ? "native " : "json ") + key, expression);
  }

  std::string quoted(const std::string& content) {
    const std::string mark = native() ? options_.quote : "\"\\u0022\"";
    return fmt::format("({} {} {})", mark, content, mark);
  }
  std::string character() {
    return shared("char", [&] {
      // JSON's own escapes of the characters that need one, and those that models like to write.
      return native() ? CharSet::all().ebnf() : (CharSet::all() - CharSet({{0, 0x1F}, {'"', '"'}, {'\\', '\\'}})).ebnf() + " | \"\\\\\" [\\\"\\\\/bfnrt]";
    });
  }
  std::string any_string() {
    return shared("string", [&] { return quoted(native() ? CharSet::all().ebnf() + "*" : character() + "*"); });
  }

  std::string any(int depth) {
    if (!native()) depth = 0;
    return shared(fmt::format("any{}", depth), [&] {
      std::string out = fmt::format("{} | {} | \"true\" | \"false\" | \"null\"", any_string(), shared("number", [] { return *number_ebnf({}); }));
      if (depth < kMaxNativeDepth) out += " | " + any_object_expr(depth) + " | " + any_array_expr(depth);
      return out;
    });
  }
  std::string any_object_expr(int depth) {
    const std::string member = shared(fmt::format("member{}", native() ? depth : 0), [&] { return free_key({}) + " " + colon() + any(depth + 1) + " " + gap(); });
    return fmt::format("({}({} ({}{})*)? {})", open("{"), member, comma(), member, close("}"));
  }
  std::string any_array_expr(int depth) {
    const std::string item = shared(fmt::format("item{}", native() ? depth : 0), [&] { return any(depth + 1) + " " + gap(); });
    return fmt::format("({}({} ({}{})*)? {})", open("["), item, comma(), item, close("]"));
  }

  // ---- keys ----

  static CharSet bare_key_characters() { return CharSet({{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}}); }
  std::string key(const std::string& name) {
    if (!native()) return quoted(ebnf_text(name, Spelling::json));
    const auto characters = code_points(name);
    const bool bare = !characters.empty() && std::all_of(characters.begin(), characters.end(), [](uint32_t c) { return bare_key_characters().contains(c) || c == '-' || c == '$' || c == '.'; });
    return bare ? ebnf_literal(name) : quoted(ebnf_literal(name));
  }
  // Any key but these: a tree of their beginnings that is left at some character.
  std::string free_key(const std::vector<std::string>& but) {
    const CharSet characters = native() ? bare_key_characters() : CharSet::all() - CharSet({{0, 0x1F}, {'"', '"'}, {'\\', '\\'}});
    std::vector<std::vector<uint32_t>> names;
    for (const std::string& name : but) names.push_back(code_points(name));
    const std::string rest = shared("key_rest", [&] { return characters.ebnf() + "*"; });
    const std::string content = names.empty() ? characters.ebnf() + " " + rest : key_tree(names, 0, characters, rest);
    return native() ? "(" + content + ")" : quoted("(" + content + ")");
  }
  // What may follow the first `depth` characters, which all `names` share.
  std::string key_tree(const std::vector<std::vector<uint32_t>>& names, size_t depth, const CharSet& characters, const std::string& rest) {
    std::map<uint32_t, std::vector<std::vector<uint32_t>>> children;
    bool is_name = depth == 0;  // the empty key is none of ours either
    for (const auto& name : names) {
      if (name.size() == depth) {
        is_name = true;
      } else {
        children[name[depth]].push_back(name);
      }
    }
    std::vector<std::string> alternatives;
    CharSet others = characters;
    for (const auto& [c, with] : children) {
      const CharSet one({{c, c}});
      others = others - one;
      if (characters.contains(c)) alternatives.push_back(fmt::format("{} {}", one.ebnf(), rules_.add(key_tree(with, depth + 1, characters, rest))));
    }
    if (!others.empty()) alternatives.push_back(others.ebnf() + " " + rest);
    if (!is_name) alternatives.emplace_back("\"\"");
    return ebnf_either(alternatives);
  }

  // ---- schemas ----

  void leave_out(const std::string& keyword, const std::string& place, const std::string& why) {
    if (options_.strict) refuse_schema(keyword, place, why);
    left_out_.push_back(fmt::format("{} at {}", keyword, place));
  }

  Expr value(const SchemaJson& schema, const std::string& place, int depth) {
    if (++num_schemas_ > kMaxSchemas) throw Error(ErrorCode::invalid_argument, fmt::format("the schema, with its references followed, has more than {} parts", kMaxSchemas));
    if (depth > kMaxNesting) throw Error(ErrorCode::invalid_argument, fmt::format("the schema nests deeper than {} at {}", kMaxNesting, place.substr(0, 100)));
    if (schema.is_boolean()) return schema.get<bool>() ? Expr(any(0)) : std::nullopt;
    check_shape(schema, place);
    for (const auto& [keyword, v] : schema.items()) {
      if (!is_annotation(keyword) && !is_known_keyword(keyword)) leave_out(keyword, place, "is not supported");
    }
    if (schema.contains("$ref")) return reference(schema, place, depth);
    if (schema.contains("allOf")) {
      SchemaJson merged = schema;
      merged.erase("allOf");
      size_t i = 0;
      for (const SchemaJson& part : schema["allOf"]) {
        const std::string here = fmt::format("{}/allOf/{}", place, i++);
        merged = merge_schemas(merged, dereferenced(part, here), here);
      }
      return value(merged, place, depth + 1);
    }
    for (const char* keyword : {"anyOf", "oneOf"}) {
      if (schema.contains(keyword)) return alternatives(schema, keyword, place, depth);
    }
    if (schema.contains("enum") || schema.contains("const")) return literals(schema, place);
    std::vector<std::string> out;
    for (const std::string& type : types(schema)) {
      if (const Expr e = of_type(type, schema, place, depth)) out.push_back(*e);
    }
    if (out.empty()) return std::nullopt;
    return ebnf_either(out);
  }

  static bool says_something(const SchemaJson& schema, const std::string& but) {
    return std::any_of(schema.items().begin(), schema.items().end(), [&](const auto& item) { return item.key() != but && !is_annotation(item.key()); });
  }

  SchemaJson dereferenced(SchemaJson schema, const std::string& place) {
    for (int hops = 0; schema.is_object() && schema.contains("$ref"); ++hops) {
      if (hops > kMaxNesting) refuse_schema("$ref", place, "leads in a circle");
      if (!schema["$ref"].is_string()) refuse_schema("$ref", place, "must be a string");
      const SchemaJson target = resolve_reference(root_, schema["$ref"], place);
      schema.erase("$ref");
      schema = merge_schemas(schema, target, place);
    }
    return schema;
  }

  Expr reference(const SchemaJson& schema, const std::string& place, int depth) {
    const std::string pointer = schema["$ref"];
    if (says_something(schema, "$ref")) return value(dereferenced(schema, place), place, depth + 1);
    const SchemaJson& target = resolve_reference(root_, pointer, place);
    if (const auto found = references_.find(pointer); found != references_.end()) return found->second;
    if (target.is_object() && target.contains("$ref") && !says_something(target, "$ref")) dereferenced(target, place);  // refuses a circle
    const std::string name = rules_.reserve();
    references_[pointer] = name;
    const Expr e = value(target, pointer, depth + 1);
    rules_.define(name, e ? *e : "\"\"");
    if (!e) references_[pointer] = std::nullopt;
    return e ? Expr(name) : std::nullopt;
  }

  Expr alternatives(const SchemaJson& schema, const std::string& keyword, const std::string& place, int depth) {
    SchemaJson base = schema;
    base.erase(keyword);
    std::vector<std::string> out;
    size_t i = 0;
    for (const SchemaJson& part : schema[keyword]) {
      const std::string here = fmt::format("{}/{}/{}", place, keyword, i++);
      const Expr e = says_something(base, "") ? value(merge_schemas(base, dereferenced(part, here), here), here, depth + 1) : value(part, here, depth + 1);
      if (e) out.push_back(*e);
    }
    if (out.empty()) return std::nullopt;
    return ebnf_either(out);
  }

  static std::vector<std::string> types(const SchemaJson& schema) {
    std::vector<std::string> out;
    const auto add = [&](const std::string& type) {
      if (std::find(out.begin(), out.end(), type) == out.end()) out.push_back(type);
    };
    if (schema.contains("type")) {
      const SchemaJson listed = schema["type"].is_array() ? schema["type"] : SchemaJson::array({schema["type"]});
      for (const SchemaJson& t : listed) add(t);
      if (std::find(out.begin(), out.end(), "number") != out.end()) std::erase(out, "integer");
    } else {
      // The keywords tell what is meant.
      static const std::map<std::string, const char*> kMeant{{"properties", "object"}, {"required", "object"}, {"additionalProperties", "object"}, {"patternProperties", "object"},
                                                             {"minProperties", "object"}, {"maxProperties", "object"}, {"unevaluatedProperties", "object"}, {"items", "array"},
                                                             {"prefixItems", "array"}, {"minItems", "array"}, {"maxItems", "array"}, {"uniqueItems", "array"}, {"unevaluatedItems", "array"},
                                                             {"minLength", "string"}, {"maxLength", "string"}, {"pattern", "string"}, {"format", "string"}, {"minimum", "number"},
                                                             {"maximum", "number"}, {"exclusiveMinimum", "number"}, {"exclusiveMaximum", "number"}, {"multipleOf", "number"}};
      for (const auto& [keyword, v] : schema.items()) {
        if (const auto found = kMeant.find(keyword); found != kMeant.end()) add(found->second);
      }
      if (out.empty()) add("any");
    }
    if (schema.contains("nullable") && schema["nullable"] == true) add("null");
    return out;
  }

  Expr of_type(const std::string& type, const SchemaJson& schema, const std::string& place, int depth) {
    if (type == "object") return object(schema, place, depth);
    if (type == "array") return array(schema, place, depth);
    if (type == "string") return string(schema, place);
    if (type == "number" || type == "integer") return number(type, schema, place);
    if (type == "boolean") return "(\"true\" | \"false\")";
    if (type == "null") return "\"null\"";
    return any(0);
  }

  // ---- values written out ----

  std::string literal(const SchemaJson& v) {
    if (v.is_string()) return quoted(ebnf_text(v.get_ref<const std::string&>(), options_.spelling));
    if (!v.is_structured()) return ebnf_literal(v.dump());
    if (v.empty()) return v.is_object() ? fmt::format("({}\"}}\")", open("{")) : fmt::format("({}\"]\")", open("["));
    std::string out = "(" + open(v.is_object() ? "{" : "[");
    bool first = true;
    for (const auto& [name, part] : v.items()) {
      if (!first) out += comma();
      first = false;
      if (v.is_object()) out += key(name) + " " + colon();
      out += literal(part) + " " + gap();
    }
    return out + close(v.is_object() ? "}" : "]") + ")";
  }

  Expr literals(const SchemaJson& schema, const std::string& place) {
    SchemaJson values = schema.contains("enum") ? schema["enum"] : SchemaJson::array({schema["const"]});
    SchemaJson rest = schema;
    rest.erase("enum");
    if (schema.contains("const")) {
      if (std::find(values.begin(), values.end(), schema["const"]) == values.end()) return std::nullopt;
      values = SchemaJson::array({schema["const"]});
      rest.erase("const");
    }
    if (schema.contains("nullable") && schema["nullable"] == true) values.push_back(nullptr);
    std::vector<std::string> out;
    for (const SchemaJson& v : values) {
      if (!fits(v, rest, place)) continue;
      const std::string e = literal(v);
      if (std::find(out.begin(), out.end(), e) == out.end()) out.push_back(e);
    }
    if (out.empty()) return std::nullopt;
    return ebnf_either(out);
  }

  // Whether a written-out value passes the other keywords beside it.
  bool fits(const SchemaJson& v, const SchemaJson& schema, const std::string& place) {
    for (const auto& [keyword, wanted] : schema.items()) {
      if (is_annotation(keyword) || !is_known_keyword(keyword) || keyword == "nullable") continue;
      const bool is_number = v.is_number();
      const double x = is_number ? v.get<double>() : 0, limit = wanted.is_number() ? wanted.get<double>() : 0;
      const auto length = v.is_string() ? static_cast<double>(code_points(v.get_ref<const std::string&>()).size()) : 0;
      bool good = true;
      if (keyword == "type") {
        const auto listed = types(schema);
        good = std::any_of(listed.begin(), listed.end(), [&](const std::string& t) {
          return t == "string" ? v.is_string() : t == "object" ? v.is_object() : t == "array" ? v.is_array() : t == "boolean" ? v.is_boolean() : t == "null" ? v.is_null()
                 : t == "integer" ? v.is_number_integer() || (is_number && x == static_cast<double>(static_cast<int64_t>(x))) : is_number;
        });
      } else if (keyword == "minimum") {
        good = !is_number || x >= limit;
      } else if (keyword == "maximum") {
        good = !is_number || x <= limit;
      } else if (keyword == "exclusiveMinimum" && wanted.is_number()) {
        good = !is_number || x > limit;
      } else if (keyword == "exclusiveMaximum" && wanted.is_number()) {
        good = !is_number || x < limit;
      } else if (keyword == "minLength") {
        good = !v.is_string() || length >= limit;
      } else if (keyword == "maxLength") {
        good = !v.is_string() || length <= limit;
      } else {
        const bool about_strings = keyword == "pattern" || keyword == "format", about_numbers = keyword == "multipleOf";
        const bool about_objects = keyword.find("ropert") != std::string::npos || keyword == "required", about_arrays = keyword.find("tems") != std::string::npos;
        if ((about_strings && !v.is_string()) || (about_numbers && !is_number) || (about_objects && !v.is_object()) || (about_arrays && !v.is_array())) continue;
        leave_out(keyword, place, "is not supported beside enum or const");
      }
      if (!good) return false;
    }
    return true;
  }

  // ---- strings and numbers ----

  int64_t count(const SchemaJson& schema, const char* keyword, int64_t otherwise, const std::string& place) {
    if (!schema.contains(keyword)) return otherwise;
    const double n = schema[keyword].get<double>();
    if (n > static_cast<double>(kMaxCount)) {
      if (std::string_view(keyword).starts_with("max")) return -1;  // as good as none
      refuse_schema(keyword, place, fmt::format("is more than {}", kMaxCount));
    }
    return static_cast<int64_t>(n);
  }

  Expr string(const SchemaJson& schema, const std::string& place) {
    const int64_t low = count(schema, "minLength", 0, place), high = count(schema, "maxLength", -1, place);
    if (high >= 0 && low > high) return std::nullopt;
    const bool limited = low > 0 || high >= 0;
    std::string pattern;
    bool search = false, limit_pattern = limited;
    std::string keyword = "pattern";
    if (schema.contains("pattern")) {
      pattern = schema["pattern"];
      search = true;
      if (schema.contains("format")) leave_out("format", place, "is not supported beside pattern");
    } else if (schema.contains("format")) {
      const char* known = format_pattern(schema["format"].get<std::string>());
      keyword = "format";
      if (!known) {
        leave_out("format", place, fmt::format("'{}' is not known; wanted date, time, date-time, duration, email, hostname, ipv4, ipv6, uri or uuid", schema["format"].get<std::string>()));
      } else {
        pattern = known;
        if (limited) leave_out(low > 0 ? "minLength" : "maxLength", place, "is not supported beside format");
        limit_pattern = false;
      }
    }
    if (!pattern.empty()) {
      RegexOptions regex{.spelling = options_.spelling, .search = search, .string_rules = &rules_};
      if (limit_pattern) {
        regex.min_length = low;
        regex.max_length = high;
      }
      try {
        return quoted(regex_to_ebnf(pattern, regex));
      } catch (const Error& error) {
        leave_out(keyword, place, error.message);
        if (!limited) return any_string();
      }
    }
    if (!limited) return any_string();
    return quoted(limited_characters(rules_, any_character(options_.spelling), options_.spelling, low, high));
  }

  Expr number(const std::string& type, const SchemaJson& schema, const std::string& place) {
    NumberLimits limits;
    const auto number_of = [&](const char* keyword) { return schema.contains(keyword) && schema[keyword].is_number() ? std::optional(schema[keyword].get<double>()) : std::nullopt; };
    limits.low = number_of("minimum");
    limits.high = number_of("maximum");
    // Draft 4 has booleans here.
    limits.low_excluded = schema.contains("exclusiveMinimum") && schema["exclusiveMinimum"] == true;
    limits.high_excluded = schema.contains("exclusiveMaximum") && schema["exclusiveMaximum"] == true;
    if (const auto x = number_of("exclusiveMinimum"); x && (!limits.low || *x >= *limits.low)) limits.low = x, limits.low_excluded = true;
    if (const auto x = number_of("exclusiveMaximum"); x && (!limits.high || *x <= *limits.high)) limits.high = x, limits.high_excluded = true;
    bool whole = type == "integer";
    if (schema.contains("multipleOf")) {
      const double step = schema["multipleOf"].get<double>();
      const bool is_whole = step == std::floor(step);
      if (is_whole && step == 1) {
        whole = true;
      } else if (is_whole && step <= static_cast<double>(kMaxStep) && !limits.any()) {
        const auto n = static_cast<int64_t>(step);
        return shared(fmt::format("multiple{}", n), [&] { return multiple_ebnf(n, rules_); });
      } else {
        leave_out("multipleOf", place, fmt::format("is supported for whole numbers up to {} without other limits only", kMaxStep));
      }
    }
    const Expr e = whole ? integer_ebnf(limits) : number_ebnf(limits);
    if (!e) return std::nullopt;
    if (limits.any()) return e;
    return shared(whole ? "integer" : "number", [&] { return *e; });
  }

  // ---- arrays ----

  Expr array(const SchemaJson& schema, const std::string& place, int depth) {
    const int64_t low = count(schema, "minItems", 0, place);
    int64_t high = count(schema, "maxItems", -1, place);
    SchemaJson first = schema.contains("prefixItems") ? schema["prefixItems"] : SchemaJson::array();
    SchemaJson rest = true;
    if (schema.contains("unevaluatedItems")) rest = schema["unevaluatedItems"];
    if (schema.contains("items")) {
      if (schema["items"].is_array()) {  // as in drafts before 2020-12
        first = schema["items"];
        if (schema.contains("additionalItems")) rest = schema["additionalItems"];
      } else {
        rest = schema["items"];
      }
    }
    if (schema.contains("uniqueItems") && schema["uniqueItems"] == true && (high < 0 || high > 1)) leave_out("uniqueItems", place, "is not supported");
    const bool no_rest = rest == false;
    if (high < 0 && no_rest) high = static_cast<int64_t>(first.size());
    if (high >= 0 && low > high) return std::nullopt;
    std::vector<std::string> fixed;
    for (size_t i = 0; i < first.size() && (high < 0 || static_cast<int64_t>(i) < high); ++i) {
      const Expr e = value(first[i], fmt::format("{}/prefixItems/{}", place, i), depth + 1);
      if (!e) {
        if (static_cast<int64_t>(i) < low) return std::nullopt;
        high = static_cast<int64_t>(i);
        break;
      }
      fixed.push_back(*e + " " + gap());
    }
    const auto num_fixed = static_cast<int64_t>(fixed.size());
    std::string tail;
    if (high < 0 || high > num_fixed) {
      const Expr item = value(rest, place + "/items", depth + 1);
      if (!item && low > num_fixed) return std::nullopt;
      if (item) {
        const std::string name = rules_.add(*item + " " + gap());
        const int64_t least = std::max<int64_t>(0, low - num_fixed), most = high < 0 ? -1 : high - num_fixed;
        if (num_fixed > 0) {
          tail = ebnf_repeat(fmt::format("({}{})", comma(), name), least, most);
        } else {
          const std::string more = ebnf_repeat(fmt::format("({}{})", comma(), name), std::max<int64_t>(0, least - 1), most < 0 ? -1 : most - 1);
          tail = fmt::format("({} {}){}", name, more, least == 0 ? "?" : "");
        }
      }
    }
    std::string content = tail;
    for (int64_t i = num_fixed - 1; i >= 0; --i) {
      content = fmt::format("({}{} {}){}", i > 0 ? comma() : "", fixed[static_cast<size_t>(i)], content, i >= low ? "?" : "");
    }
    return fmt::format("({}{} {})", open("["), content, close("]"));
  }

  // ---- objects ----

  struct Member {
    std::string expression;  // key, colon, value
    bool required;
  };
  struct Members {
    std::vector<Member> named;
    std::string extra;  // further members; "" none
    int64_t low = 0, high = -1;
    bool counted = false;
    std::map<std::pair<size_t, int64_t>, Expr> tails;
  };

  Expr object(const SchemaJson& schema, const std::string& place, int depth) {
    const SchemaJson properties = schema.contains("properties") ? schema["properties"] : SchemaJson::object();
    SchemaJson others = !(options_.strict || (options_.closed && schema.contains("properties")));
    if (schema.contains("unevaluatedProperties")) others = schema["unevaluatedProperties"];
    if (schema.contains("additionalProperties")) others = schema["additionalProperties"];
    std::vector<std::string> required;
    if (schema.contains("required")) required = schema["required"].get<std::vector<std::string>>();
    const auto is_required = [&](const std::string& name) { return std::find(required.begin(), required.end(), name) != required.end(); };

    std::string pattern;
    SchemaJson pattern_value = true;
    if (schema.contains("patternProperties") && !schema["patternProperties"].empty()) {
      if (schema["patternProperties"].size() > 1 || !properties.empty() || !required.empty() || native()) {
        leave_out("patternProperties", place, native() ? "is not supported in tools" : "is supported with one pattern and without properties and required only");
        if (others == false) others = true;  // what it would have allowed
      } else {
        pattern = schema["patternProperties"].begin().key();
        pattern_value = schema["patternProperties"].begin().value();
      }
    }

    Members members;
    std::vector<std::string> names;
    const auto add = [&](const std::string& name, const SchemaJson& property, const std::string& where) {
      names.push_back(name);
      const Expr e = value(property, where, depth + 1);
      if (!e) return !is_required(name);
      members.named.push_back({key(name) + " " + colon() + *e + " " + gap(), is_required(name)});
      return true;
    };
    std::vector<std::pair<std::string, std::string>> order;  // what it sorts by, name
    for (const auto& [name, property] : properties.items()) order.emplace_back(native() ? jinja::lower({name, false}).bytes : "", name);
    std::stable_sort(order.begin(), order.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    for (const auto& [sorts_by, name] : order) {
      if (!add(name, properties[name], place + "/properties/" + name)) return std::nullopt;
    }
    for (const std::string& name : required) {
      if (std::find(names.begin(), names.end(), name) != names.end()) continue;
      if (others == false) refuse_schema("required", place, fmt::format("names '{}', which is not among the properties, and no others are allowed", name));
      if (!add(name, others, place + "/additionalProperties")) return std::nullopt;
    }
    if (!pattern.empty()) {
      try {
        if (const Expr e = value(pattern_value, place + "/patternProperties", depth + 1)) {
          members.extra = rules_.add(quoted(regex_to_ebnf(pattern, {.spelling = options_.spelling, .search = true, .string_rules = &rules_})) + " " + colon() + *e + " " + gap());
        }
      } catch (const Error& error) {
        leave_out("patternProperties", place, error.message);
      }
    } else if (others != false) {
      if (const Expr e = value(others, place + "/additionalProperties", depth + 1)) members.extra = rules_.add(free_key(names) + " " + colon() + *e + " " + gap());
    }
    members.low = count(schema, "minProperties", 0, place);
    members.high = count(schema, "maxProperties", -1, place);
    members.counted = members.low > 0 || members.high >= 0;
    const auto num_required = std::count_if(members.named.begin(), members.named.end(), [](const Member& m) { return m.required; });
    // Free keys may repeat, so that of them only one is sure to count.
    if (members.low > static_cast<int64_t>(members.named.size()) + (members.extra.empty() ? 0 : 1)) {
      if (members.extra.empty()) return std::nullopt;
      leave_out("minProperties", place, "counts keys that the schema does not name");
      members.low = static_cast<int64_t>(members.named.size()) + 1;
    }
    if (members.high >= 0 && num_required > members.high) return std::nullopt;
    const Expr content = members_from(members, 0, 0);
    if (!content) return std::nullopt;
    return fmt::format("({}{} {})", open("{"), *content, close("}"));
  }

  // The members from `index` on when `done` stand before them.
  Expr members_from(Members& m, size_t index, int64_t done) {
    std::string out;
    for (; index < m.named.size() && m.named[index].required; ++index, ++done) out += (done > 0 ? comma() : "") + m.named[index].expression + " ";
    if (index == m.named.size()) {
      const Expr tail = extra_members(m, done);
      return tail ? Expr(out + *tail) : std::nullopt;
    }
    const int64_t seen = m.counted ? done : std::min<int64_t>(done, 1);
    auto found = m.tails.find({index, seen});
    if (found == m.tails.end()) {
      std::vector<std::string> ways;
      if (m.high < 0 || done < m.high) {
        if (const Expr rest = members_from(m, index + 1, done + 1)) ways.push_back((done > 0 ? comma() : "") + m.named[index].expression + " " + *rest);
      }
      if (const Expr rest = members_from(m, index + 1, done)) ways.push_back(*rest);
      Expr rule;
      if (!ways.empty()) {
        std::string expression = ways[0];
        for (size_t i = 1; i < ways.size(); ++i) expression += " | " + ways[i];
        rule = rules_.add(expression);
      }
      found = m.tails.emplace(std::pair{index, seen}, rule).first;
    }
    return found->second ? Expr(out + *found->second) : std::nullopt;
  }

  Expr extra_members(const Members& m, int64_t done) {
    const int64_t left = m.high < 0 ? -1 : m.high - done;
    if (left < 0 && m.high >= 0) return std::nullopt;
    const int64_t wanted = std::max<int64_t>(0, m.low - done);
    if (wanted > 1 || (wanted == 1 && (m.extra.empty() || left == 0))) return std::nullopt;
    if (m.extra.empty() || left == 0) return "\"\"";
    const std::string next = fmt::format("({}{})", comma(), m.extra);
    if (done > 0) return ebnf_repeat(next, wanted, left);
    return fmt::format("({} {}){}", m.extra, ebnf_repeat(next, 0, left < 0 ? -1 : left - 1), wanted == 0 ? "?" : "");
  }

  const SchemaJson& root_;
  const SchemaOptions& options_;
  EbnfRules& rules_;
  std::vector<std::string>& left_out_;
  std::map<std::string, Expr> references_;
  int num_schemas_ = 0;
};
}  // namespace

std::string schema_to_ebnf(const SchemaJson& schema, const SchemaOptions& options, EbnfRules& rules, std::vector<std::string>& left_out) {
  return Converter(schema, options, rules, left_out).whole();
}
std::string call_members_to_ebnf(const SchemaJson& schema, const SchemaOptions& options, EbnfRules& rules, std::vector<std::string>& left_out) {
  return Converter(schema, options, rules, left_out).call_members();
}
std::string any_object_to_ebnf(const SchemaOptions& options, EbnfRules& rules) {
  const SchemaJson nothing = true;
  std::vector<std::string> left_out;
  return Converter(nothing, options, rules, left_out).any_object();
}
}  // namespace nibble
