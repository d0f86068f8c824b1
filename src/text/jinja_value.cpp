#include "text/jinja_value.h"

#include <algorithm>
#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/utf8.h"

namespace nibble::jinja {
namespace {
constexpr size_t kMaxItems = 1'000'000;
constexpr uint16_t kMaxDepth = 300;
constexpr size_t kNodeWork = 32;  // of looking at one value

thread_local int64_t work_left = INT64_MAX;
}  // namespace

WorkLimit::WorkLimit(int64_t bytes) { work_left = bytes; }
WorkLimit::~WorkLimit() { work_left = INT64_MAX; }

void charge_work(size_t bytes) {
  if (work_left == INT64_MAX) return;
  work_left -= static_cast<int64_t>(bytes);
  if (work_left < 0) fail_render("the template copies too much text");
}

void fail_render(std::string message) { throw RenderError{std::move(message)}; }

Value Value::boolean(bool b) {
  Value v(Kind::boolean);
  v.integer_ = b;
  return v;
}
Value Value::integer(int64_t i) {
  Value v(Kind::integer);
  v.integer_ = i;
  return v;
}
Value Value::big_integer(std::string digits) {
  Value v(Kind::integer);
  v.floating_ = std::strtod(digits.c_str(), nullptr);
  v.integer_ = digits[0] == '-' ? INT64_MIN : INT64_MAX;
  v.text_ = std::make_shared<const Text>(digits, false);
  return v;
}
Value Value::floating(double d) {
  Value v(Kind::floating);
  v.floating_ = d;
  return v;
}
Value Value::string(Text text) {
  charge_work(text.bytes.size());
  Value v(Kind::string);
  v.text_ = std::make_shared<const Text>(std::move(text));
  return v;
}
void Value::take_depth_of(const Value& part) {
  if (part.depth_ >= kMaxDepth) fail_render("a value nests more than 300 levels deep");
  depth_ = std::max<uint16_t>(depth_, part.depth_ + 1);
  holds_scope_ = holds_scope_ || part.holds_scope_;
}
Value Value::list(List items, Kind kind) {
  if (items.size() > kMaxItems) fail_render("a list grows beyond 1,000,000 items");
  charge_work(items.size() * sizeof(Value));
  Value v(kind);
  for (const Value& item : items) v.take_depth_of(item);
  v.list_ = std::make_shared<const List>(std::move(items));
  return v;
}
Value Value::mapping(Items items, Kind kind) {
  charge_work(items.size() * sizeof(items[0]));
  Value v(kind);
  v.holds_scope_ = kind == Kind::scope;
  for (const auto& [key, item] : items) {
    v.take_depth_of(key);
    v.take_depth_of(item);
  }
  v.pairs_ = std::make_shared<Items>(std::move(items));
  return v;
}
Value Value::function(Function f) {
  Value v(Kind::function);
  v.function_ = std::make_shared<const Function>(std::move(f));
  return v;
}
Value Value::undefined(std::string name) {
  Value v(Kind::undefined);
  v.text_ = std::make_shared<const Text>(name, false);
  return v;
}

Value Value::from_json(const nlohmann::ordered_json& json, bool trusted) {
  using type = nlohmann::ordered_json::value_t;
  switch (json.type()) {
    case type::null: return none();
    case type::boolean: return boolean(json.get<bool>());
    case type::number_integer: return integer(json.get<int64_t>());
    case type::number_unsigned: {
      const uint64_t u = json.get<uint64_t>();
      return u > static_cast<uint64_t>(INT64_MAX) ? big_integer(std::to_string(u)) : integer(static_cast<int64_t>(u));
    }
    case type::number_float: return floating(json.get<double>());
    case type::string: return string(json.get_ref<const std::string&>(), trusted);
    case type::array: {
      List items;
      for (const auto& item : json) items.push_back(from_json(item, trusted));
      return list(std::move(items));
    }
    case type::object: {
      Items items;
      for (const auto& [key, value] : json.items()) items.emplace_back(string(key, trusted), from_json(value, trusted));
      return mapping(std::move(items));
    }
    default: return none();
  }
}

bool Value::truth() const {
  switch (kind_) {
    case Kind::undefined:
    case Kind::none: return false;
    case Kind::boolean:
    case Kind::integer: return integer_ != 0;
    case Kind::floating: return floating_ != 0;
    case Kind::string: return !text_->bytes.empty();
    case Kind::list:
    case Kind::tuple: return !list_->empty();
    case Kind::mapping: return !pairs_->empty();
    case Kind::scope:
    case Kind::function: return true;
  }
  return false;
}

const Value* Value::find(std::string_view key) const {
  if (kind_ != Kind::mapping && kind_ != Kind::scope) return nullptr;
  for (const auto& [k, v] : *pairs_) {
    if (k.is(Kind::string) && k.text().bytes == key) return &v;
  }
  return nullptr;
}

std::string_view Value::type_name() const {
  switch (kind_) {
    case Kind::undefined: return "undefined";
    case Kind::none: return "none";
    case Kind::boolean: return "boolean";
    case Kind::integer: return "integer";
    case Kind::floating: return "float";
    case Kind::string: return "string";
    case Kind::list: return "list";
    case Kind::tuple: return "tuple";
    case Kind::mapping: return "mapping";
    case Kind::scope: return "namespace";
    case Kind::function: return "function";
  }
  return "?";
}

bool equal(const Value& a, const Value& b) {
  charge_work(kNodeWork);
  if (a.is_number() && b.is_number()) {
    if (a.is_big() || b.is_big()) return a.is_big() && b.is_big() && a.digits() == b.digits();
    if (a.is(Kind::floating) || b.is(Kind::floating)) return a.as_double() == b.as_double();
    return a.as_integer() == b.as_integer();
  }
  if (a.is_list() && b.is_list()) {
    if (a.kind() != b.kind() || a.items().size() != b.items().size()) return false;
    for (size_t i = 0; i < a.items().size(); ++i) {
      if (!equal(a.items()[i], b.items()[i])) return false;
    }
    return true;
  }
  if (a.kind() != b.kind()) return false;
  switch (a.kind()) {
    case Kind::undefined:
    case Kind::none: return true;
    case Kind::string: return a.text().bytes == b.text().bytes;
    case Kind::mapping: {
      if (a.pairs().size() != b.pairs().size()) return false;
      for (const auto& [key, value] : a.pairs()) {
        bool found = false;
        for (const auto& [other_key, other] : b.pairs()) found = found || (equal(key, other_key) && equal(value, other));
        if (!found) return false;
      }
      return true;
    }
    case Kind::scope: return &a.pairs() == &b.pairs();
    default: return false;
  }
}

int compare(const Value& a, const Value& b) {
  charge_work(kNodeWork);
  if (a.is_number() && b.is_number()) {
    if (a.is(Kind::floating) || b.is(Kind::floating) || a.is_big() || b.is_big()) return a.as_double() < b.as_double() ? -1 : a.as_double() > b.as_double();
    return a.as_integer() < b.as_integer() ? -1 : a.as_integer() > b.as_integer();
  }
  if (a.is(Kind::string) && b.is(Kind::string)) {
    const int order = a.text().bytes.compare(b.text().bytes);  // UTF-8 sorts as its code points
    return order < 0 ? -1 : order > 0;
  }
  if (a.is_list() && b.is_list()) {
    for (size_t i = 0; i < std::min(a.items().size(), b.items().size()); ++i) {
      if (const int order = compare(a.items()[i], b.items()[i])) return order;
    }
    return a.items().size() < b.items().size() ? -1 : a.items().size() > b.items().size();
  }
  fail_render(fmt::format("cannot order a {} against a {}", a.type_name(), b.type_name()));
}

std::string float_repr(double d) {
  if (std::isnan(d)) return "nan";
  if (std::isinf(d)) return d < 0 ? "-inf" : "inf";
  char buffer[40];
  // Shortest digits that read back, in scientific form; then laid out as Python does.
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, d, std::chars_format::scientific).ptr;
  std::string_view text(buffer, static_cast<size_t>(end - buffer));
  std::string sign;
  if (text.starts_with('-')) {
    sign = "-";
    text.remove_prefix(1);
  }
  const size_t e = text.find('e');
  std::string digits(text.substr(0, e));
  const int exponent = std::atoi(std::string(text.substr(e + 1)).c_str());
  if (digits.size() > 1) digits.erase(1, 1);  // the point
  if (exponent < -4 || exponent >= 16) {
    std::string out = sign + digits.substr(0, 1);
    if (digits.size() > 1) out += "." + digits.substr(1);
    return out + fmt::format("e{}{:02d}", exponent < 0 ? '-' : '+', std::abs(exponent));
  }
  if (exponent < 0) return sign + "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  if (static_cast<int>(digits.size()) <= exponent + 1) return sign + digits + std::string(static_cast<size_t>(exponent + 1) - digits.size(), '0') + ".0";
  return sign + digits.substr(0, static_cast<size_t>(exponent) + 1) + "." + digits.substr(static_cast<size_t>(exponent) + 1);
}

namespace {
std::string string_repr(std::string_view text) {
  const bool has_single = text.find('\'') != std::string_view::npos, has_double = text.find('"') != std::string_view::npos;
  const char quote = has_single && !has_double ? '"' : '\'';
  std::string out(1, quote);
  for (const auto& [begin, end] : code_points(text)) {
    const std::string_view one = text.substr(begin, end - begin);
    const uint32_t c = decode_utf8(text, begin).code_point;
    if (c == static_cast<uint32_t>(quote) || c == '\\') {
      out += '\\';
      out += one;
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (c < 0x20 || c == 0x7f || (c >= 0x80 && c < 0xa1) || c == 0xad) {
      out += fmt::format("\\x{:02x}", c);
    } else if ((c >= 0x2000 && c <= 0x200f) || (c >= 0x2028 && c <= 0x202f) || (c >= 0x205f && c <= 0x206f) || c == 0x3000 || c == 0xfeff || c == 0x1680 ||
               (c >= 0xe000 && c <= 0xf8ff)) {
      out += fmt::format("\\u{:04x}", c);
    } else {
      out += one;
    }
  }
  return out + quote;
}

std::string join_reprs(const List& items, std::string_view open, std::string_view close) {
  std::string out(open);
  for (size_t i = 0; i < items.size(); ++i) out += (i ? ", " : "") + to_repr(items[i]);
  return out + std::string(close);
}
}  // namespace

std::string to_repr(const Value& value) {
  charge_work(kNodeWork + (value.is(Kind::string) ? value.text().bytes.size() : 0));
  switch (value.kind()) {
    case Kind::undefined: return "Undefined";
    case Kind::none: return "None";
    case Kind::boolean: return value.as_integer() ? "True" : "False";
    case Kind::integer: return value.is_big() ? value.digits() : std::to_string(value.as_integer());
    case Kind::floating: return float_repr(value.as_double());
    case Kind::string: return string_repr(value.text().bytes);
    case Kind::list: return join_reprs(value.items(), "[", "]");
    case Kind::tuple: return join_reprs(value.items(), "(", value.items().size() == 1 ? ",)" : ")");
    case Kind::mapping: {
      std::string out = "{";
      for (size_t i = 0; i < value.pairs().size(); ++i) {
        out += (i ? ", " : "") + to_repr(value.pairs()[i].first) + ": " + to_repr(value.pairs()[i].second);
      }
      return out + "}";
    }
    case Kind::scope: return "<namespace>";
    case Kind::function: return "<function>";
  }
  return "";
}

Text to_text(const Value& value) {
  if (value.is(Kind::string)) return value.text();
  if (value.is(Kind::undefined)) return {};
  return Text(to_repr(value), false);
}

std::vector<std::pair<size_t, size_t>> code_points(std::string_view text) {
  charge_work(4 * text.size());
  std::vector<std::pair<size_t, size_t>> out;
  for (size_t at = 0; at < text.size();) {
    const size_t length = decode_utf8(text, at).length;
    out.emplace_back(at, at + length);
    at += length;
  }
  return out;
}

List iterate(const Value& value) {
  List out;
  switch (value.kind()) {
    case Kind::undefined: return out;
    case Kind::list:
    case Kind::tuple: return value.items();
    case Kind::mapping:
      for (const auto& [key, item] : value.pairs()) out.push_back(key);
      return out;
    case Kind::string:
      for (const auto& [begin, end] : code_points(value.text().bytes)) out.push_back(Value::string(value.text().slice(begin, end)));
      return out;
    default: fail_render(fmt::format("a {} cannot be looped over", value.type_name()));
  }
}
}  // namespace nibble::jinja
