#include "text/jinja_builtins.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <map>

#include "base/utf8.h"
#include "text/jinja_strings.h"

namespace nibble::jinja {
namespace {
constexpr int64_t kMaxRange = 1'000'000;

// Arguments by position or name, counted from the input (0).
class Taken {
 public:
  Taken(const std::string& what, const Arguments& args) : what_(what), args_(args) {}
  const Value* get(size_t index, std::string_view name) const {
    if (index < args_.positional.size()) return &args_.positional[index];
    for (const auto& [key, value] : args_.named) {
      if (key == name) return &value;
    }
    return nullptr;
  }
  const Value& need(size_t index, std::string_view name) const {
    const Value* value = get(index, name);
    if (!value) fail_render(fmt::format("{} wants an argument '{}'", what_, name));
    return *value;
  }
  bool flag(size_t index, std::string_view name) const {
    const Value* value = get(index, name);
    return value && value->truth();
  }
  int64_t integer(size_t index, std::string_view name, int64_t fallback) const {
    const Value* value = get(index, name);
    if (!value || value->is(Kind::none)) return fallback;
    if (!value->is_number()) fail_render(fmt::format("{}: '{}' must be a number", what_, name));
    return value->is(Kind::floating) ? static_cast<int64_t>(value->as_double()) : value->as_integer();
  }
  const Value& input() const { return need(0, "value"); }

 private:
  const std::string& what_;
  const Arguments& args_;
};

[[noreturn]] void wrong_type(std::string_view what, const Value& value) { fail_render(fmt::format("{} cannot take a {}", what, value.type_name())); }

// An attribute of filters such as map(attribute="a.b").
Value attribute_path(Value value, std::string_view path) {
  while (!path.empty()) {
    const size_t dot = path.find('.');
    const Value* found = value.find(path.substr(0, dot));
    if (!found) return Value::undefined(std::string(path));
    value = Value(*found);
    path = dot == std::string_view::npos ? std::string_view() : path.substr(dot + 1);
  }
  return value;
}

int64_t length_of(const Value& value) {
  switch (value.kind()) {
    case Kind::undefined: return 0;
    case Kind::string: return static_cast<int64_t>(code_points(value.text().bytes).size());
    case Kind::list:
    case Kind::tuple: return static_cast<int64_t>(value.items().size());
    case Kind::mapping: return static_cast<int64_t>(value.pairs().size());
    default: wrong_type("length", value);
  }
}

Value sort_key(const Value& value, bool case_sensitive) {
  return value.is(Kind::string) && !case_sensitive ? Value::string(lower(value.text())) : value;
}

Value dictsort(const Taken& args) {
  const Value& input = args.input();
  if (!input.is_mapping()) wrong_type("dictsort", input);
  const bool case_sensitive = args.flag(1, "case_sensitive"), reverse = args.flag(3, "reverse");
  const Value* by = args.get(2, "by");
  const bool by_value = by && by->is(Kind::string) && by->text().bytes == "value";
  std::vector<std::pair<Value, const std::pair<Value, Value>*>> order;
  for (const auto& item : input.pairs()) order.emplace_back(sort_key(by_value ? item.second : item.first, case_sensitive), &item);
  std::stable_sort(order.begin(), order.end(), [&](const auto& a, const auto& b) { return reverse ? compare(a.first, b.first) > 0 : compare(a.first, b.first) < 0; });
  List out;
  for (const auto& [key, item] : order) out.push_back(Value::list({item->first, item->second}, Kind::tuple));
  return Value::list(std::move(out));
}

Value sort(const Taken& args) {
  const bool reverse = args.flag(1, "reverse"), case_sensitive = args.flag(2, "case_sensitive");
  const Value* attribute = args.get(3, "attribute");
  std::vector<std::pair<Value, Value>> order;
  for (const Value& item : iterate(args.input())) {
    order.emplace_back(sort_key(attribute ? attribute_path(item, to_text(*attribute).bytes) : item, case_sensitive), item);
  }
  std::stable_sort(order.begin(), order.end(), [&](const auto& a, const auto& b) { return reverse ? compare(a.first, b.first) > 0 : compare(a.first, b.first) < 0; });
  List out;
  for (auto& [key, item] : order) out.push_back(std::move(item));
  return Value::list(std::move(out));
}

Value map(const std::string& name, const Arguments& args) {
  const Taken taken(name, args);
  List out;
  if (args.positional.size() < 2) {
    const std::string path = to_text(taken.need(1, "attribute")).bytes;
    const Value* fallback = taken.get(9, "default");
    for (const Value& item : iterate(taken.input())) {
      Value found = attribute_path(item, path);
      out.push_back(found.is(Kind::undefined) && fallback ? *fallback : found);
    }
  } else {
    const std::string filter = to_text(args.positional[1]).bytes;
    for (const Value& item : iterate(taken.input())) {
      Arguments inner{{item}, args.named};
      inner.positional.insert(inner.positional.end(), args.positional.begin() + 2, args.positional.end());
      out.push_back(apply_filter(filter, inner));
    }
  }
  return Value::list(std::move(out));
}

// select, reject, selectattr, rejectattr
Value select(const std::string& name, const Arguments& args) {
  const Taken taken(name, args);
  const bool by_attribute = name.ends_with("attr"), keep = name.starts_with("select");
  const size_t test_at = by_attribute ? 2 : 1;
  List out;
  for (const Value& item : iterate(taken.input())) {
    const Value subject = by_attribute ? attribute_path(item, to_text(taken.need(1, "attribute")).bytes) : item;
    bool passes = subject.truth();
    if (args.positional.size() > test_at) {
      Arguments inner{{subject}, args.named};
      inner.positional.insert(inner.positional.end(), args.positional.begin() + static_cast<int64_t>(test_at) + 1, args.positional.end());
      passes = apply_test(to_text(args.positional[test_at]).bytes, inner);
    }
    if (passes == keep) out.push_back(item);
  }
  return Value::list(std::move(out));
}

Value join(const Taken& args) {
  const Value* separator = args.get(1, "d");
  const Value* attribute = args.get(2, "attribute");
  const Text between = separator ? to_text(*separator) : Text();
  Text out;
  bool first = true;
  for (const Value& item : iterate(args.input())) {
    if (!first) out.append(between);
    first = false;
    out.append(to_text(attribute ? attribute_path(item, to_text(*attribute).bytes) : item));
  }
  return Value::string(std::move(out));
}

Value to_integer(const Taken& args) {
  const Value& input = args.input();
  const Value* fallback = args.get(1, "default");
  if (input.is(Kind::floating)) return Value::integer(static_cast<int64_t>(input.as_double()));
  if (input.is_number()) return input.is(Kind::boolean) ? Value::integer(input.as_integer()) : input;
  if (input.is(Kind::string)) {
    const std::string text = trim(input.text(), {}, true, true).bytes;
    char* end = nullptr;
    const double value = std::strtod(text.c_str(), &end);
    if (!text.empty() && *end == '\0' && std::fabs(value) < 9e18) return Value::integer(static_cast<int64_t>(value));
  }
  return fallback ? *fallback : Value::integer(0);
}

Value to_float(const Taken& args) {
  const Value& input = args.input();
  const Value* fallback = args.get(1, "default");
  if (input.is_number()) return Value::floating(input.as_double());
  if (input.is(Kind::string)) {
    const std::string text = trim(input.text(), {}, true, true).bytes;
    char* end = nullptr;
    const double value = std::strtod(text.c_str(), &end);
    if (!text.empty() && *end == '\0') return Value::floating(value);
  }
  return fallback ? *fallback : Value::floating(0.0);
}

Value round_number(const Taken& args) {
  const Value& input = args.input();
  if (!input.is_number()) wrong_type("round", input);
  const double factor = std::pow(10.0, static_cast<double>(args.integer(1, "precision", 0)));
  const Value* method = args.get(2, "method");
  const std::string how = method ? to_text(*method).bytes : "common";
  const double scaled = input.as_double() * factor;
  return Value::floating((how == "ceil" ? std::ceil(scaled) : how == "floor" ? std::floor(scaled) : std::nearbyint(scaled)) / factor);
}

Value indent(const Taken& args) {
  const Value* width = args.get(1, "width");
  const Text pad = width && width->is(Kind::string) ? width->text() : Text(std::string(static_cast<size_t>(std::clamp<int64_t>(args.integer(1, "width", 4), 0, 1000)), ' '), true);
  const bool first = args.flag(2, "first"), blank = args.flag(3, "blank");
  const Text input = to_text(args.input());
  Text out;
  for (size_t begin = 0, line = 0; begin <= input.bytes.size(); ++line) {
    const size_t end = std::min(input.bytes.find('\n', begin), input.bytes.size());
    if ((line > 0 || first) && (end > begin || blank)) out.append(pad);
    out.append(input.slice(begin, std::min(end + 1, input.bytes.size())));
    begin = end + 1;
  }
  return Value::string(std::move(out));
}

Value batch(const Taken& args) {
  const int64_t size = args.integer(1, "linecount", 1);
  if (size <= 0) fail_render("batch wants a positive size");
  const Value* fill = args.get(2, "fill_with");
  List out, row;
  for (const Value& item : iterate(args.input())) {
    row.push_back(item);
    if (static_cast<int64_t>(row.size()) == size) out.push_back(Value::list(std::exchange(row, {})));
  }
  if (!row.empty()) {
    while (fill && static_cast<int64_t>(row.size()) < size) row.push_back(*fill);
    out.push_back(Value::list(std::move(row)));
  }
  return Value::list(std::move(out));
}

Value extreme(const Taken& args, bool highest) {
  const List items = iterate(args.input());
  if (items.empty()) return Value::undefined("min or max of nothing");
  const auto less = [](const Value& a, const Value& b) { return compare(sort_key(a, false), sort_key(b, false)) < 0; };
  return highest ? *std::max_element(items.begin(), items.end(), less) : *std::min_element(items.begin(), items.end(), less);
}

Value unique(const Taken& args) {
  List out;
  for (const Value& item : iterate(args.input())) {
    const Value key = sort_key(item, args.flag(1, "case_sensitive"));
    if (std::none_of(out.begin(), out.end(), [&](const Value& seen) { return equal(sort_key(seen, args.flag(1, "case_sensitive")), key); })) out.push_back(item);
  }
  return Value::list(std::move(out));
}

Value items_of(const Value& value) {
  List out;
  if (value.is(Kind::undefined)) return Value::list({});
  if (!value.is_mapping()) wrong_type("items", value);
  for (const auto& [key, item] : value.pairs()) out.push_back(Value::list({key, item}, Kind::tuple));
  return Value::list(std::move(out));
}
}  // namespace

Value add(const Value& a, const Value& b) {
  if (a.is(Kind::string) && b.is(Kind::string)) {
    Text out = a.text();
    out.append(b.text());
    return Value::string(std::move(out));
  }
  if (a.is_number() && b.is_number()) {
    if (a.is(Kind::floating) || b.is(Kind::floating)) return Value::floating(a.as_double() + b.as_double());
    int64_t sum;
    if (__builtin_add_overflow(a.as_integer(), b.as_integer(), &sum)) fail_render("integer overflow");
    return Value::integer(sum);
  }
  if (a.is_list() && a.kind() == b.kind()) {
    List out = a.items();
    out.insert(out.end(), b.items().begin(), b.items().end());
    return Value::list(std::move(out), a.kind());
  }
  fail_render(fmt::format("cannot add a {} to a {}", b.type_name(), a.type_name()));
}

bool contains(const Value& container, const Value& item) {
  switch (container.kind()) {
    case Kind::undefined: return false;
    case Kind::string:
      if (!item.is(Kind::string)) fail_render(fmt::format("'in' a string wants a string, not a {}", item.type_name()));
      return container.text().bytes.find(item.text().bytes) != std::string::npos;
    case Kind::list:
    case Kind::tuple: return std::any_of(container.items().begin(), container.items().end(), [&](const Value& v) { return equal(v, item); });
    case Kind::mapping: return std::any_of(container.pairs().begin(), container.pairs().end(), [&](const auto& p) { return equal(p.first, item); });
    default: fail_render(fmt::format("'in' cannot look into a {}", container.type_name()));
  }
}

Value apply_filter(const std::string& name, const Arguments& args) {
  using Filter = Value (*)(const Taken&);
  static const std::map<std::string, Filter, std::less<>> kFilters{
      {"dictsort", dictsort},
      {"sort", sort},
      {"join", join},
      {"int", to_integer},
      {"float", to_float},
      {"round", round_number},
      {"indent", indent},
      {"batch", batch},
      {"unique", unique},
      {"items", [](const Taken& a) { return items_of(a.input()); }},
      {"min", [](const Taken& a) { return extreme(a, false); }},
      {"max", [](const Taken& a) { return extreme(a, true); }},
      {"upper", [](const Taken& a) { return Value::string(upper(to_text(a.input()))); }},
      {"lower", [](const Taken& a) { return Value::string(lower(to_text(a.input()))); }},
      {"title", [](const Taken& a) { return Value::string(title(to_text(a.input()))); }},
      {"capitalize", [](const Taken& a) { return Value::string(capitalize(to_text(a.input()))); }},
      {"string", [](const Taken& a) { return Value::string(to_text(a.input())); }},
      {"safe", [](const Taken& a) { return a.input(); }},
      {"length", [](const Taken& a) { return Value::integer(length_of(a.input())); }},
      {"count", [](const Taken& a) { return Value::integer(length_of(a.input())); }},
      {"list", [](const Taken& a) { return Value::list(iterate(a.input())); }},
      {"trim",
       [](const Taken& a) {
         const Value* characters = a.get(1, "chars");
         return Value::string(trim(to_text(a.input()), characters ? to_text(*characters).bytes : std::string(), true, true));
       }},
      {"default",
       [](const Taken& a) {
         const Value* fallback = a.get(1, "default_value");
         const bool replace = a.input().is(Kind::undefined) || (a.flag(2, "boolean") && !a.input().truth());
         return !replace ? a.input() : fallback ? *fallback : Value::string("", true);
       }},
      {"first",
       [](const Taken& a) {
         const List items = iterate(a.input());
         return items.empty() ? Value::undefined("first of nothing") : items.front();
       }},
      {"last",
       [](const Taken& a) {
         const List items = iterate(a.input());
         return items.empty() ? Value::undefined("last of nothing") : items.back();
       }},
      {"reverse",
       [](const Taken& a) {
         List items = iterate(a.input());
         std::reverse(items.begin(), items.end());
         if (!a.input().is(Kind::string)) return Value::list(std::move(items));
         Text out;
         for (const Value& item : items) out.append(item.text());
         return Value::string(std::move(out));
       }},
      {"replace",
       [](const Taken& a) {
         return Value::string(replace(to_text(a.input()), to_text(a.need(1, "old")), to_text(a.need(2, "new")), a.integer(3, "count", -1)));
       }},
      {"tojson",
       [](const Taken& a) {
         JsonStyle style;
         const Value* indent = a.get(1, "indent");
         if (indent && !indent->is(Kind::none)) style.indent = a.integer(1, "indent", 0);
         style.ensure_ascii = a.flag(9, "ensure_ascii");
         style.sort_keys = a.flag(9, "sort_keys");
         if (const Value* separators = a.get(9, "separators"); separators && separators->is_list() && separators->items().size() == 2) {
           style.comma = to_text(separators->items()[0]).bytes;
           style.colon = to_text(separators->items()[1]).bytes;
         } else if (style.indent) {
           style.comma = ",";
         }
         Text out;
         append_json(out, a.input(), style, 0);
         return Value::string(std::move(out));
       }},
      {"abs",
       [](const Taken& a) {
         const Value& v = a.input();
         if (!v.is_number()) wrong_type("abs", v);
         return v.is(Kind::floating) ? Value::floating(std::fabs(v.as_double())) : Value::integer(std::abs(v.as_integer()));
       }},
      {"sum",
       [](const Taken& a) {
         const Value* attribute = a.get(1, "attribute");
         const Value* start = a.get(2, "start");
         Value total = start ? *start : Value::integer(0);
         for (const Value& item : iterate(a.input())) total = add(total, attribute ? attribute_path(item, to_text(*attribute).bytes) : item);
         return total;
       }},
  };
  if (name == "map") return map(name, args);
  if (name == "select" || name == "reject" || name == "selectattr" || name == "rejectattr") return select(name, args);
  const auto at = kFilters.find(name == "d" ? "default" : name == "e" || name == "escape" ? "safe" : name);
  if (at == kFilters.end()) fail_render(fmt::format("there is no filter '{}'", name));
  return at->second(Taken(name, args));
}

bool apply_test(const std::string& name, const Arguments& args) {
  const Taken taken(name, args);
  const Value& v = taken.input();
  const auto integer = [&] {
    if (!v.is_number()) wrong_type(name, v);
    return v.as_integer();
  };
  if (name == "defined") return !v.is(Kind::undefined);
  if (name == "undefined") return v.is(Kind::undefined);
  if (name == "none") return v.is(Kind::none);
  if (name == "string") return v.is(Kind::string);
  if (name == "boolean") return v.is(Kind::boolean);
  if (name == "true") return v.is(Kind::boolean) && v.as_integer() == 1;
  if (name == "false") return v.is(Kind::boolean) && v.as_integer() == 0;
  if (name == "number") return v.is_number();
  if (name == "integer") return v.is(Kind::integer);
  if (name == "float") return v.is(Kind::floating);
  if (name == "mapping") return v.is_mapping();
  if (name == "sequence" || name == "iterable") return v.is(Kind::string) || v.is_list() || v.is_mapping() || v.is(Kind::undefined);
  if (name == "callable") return v.is(Kind::function);
  if (name == "odd") return integer() % 2 != 0;
  if (name == "even") return integer() % 2 == 0;
  if (name == "divisibleby") return integer() % std::max<int64_t>(1, taken.integer(1, "num", 1)) == 0;
  if (name == "equalto" || name == "eq" || name == "==") return equal(v, taken.need(1, "other"));
  if (name == "ne" || name == "!=") return !equal(v, taken.need(1, "other"));
  if (name == "lt" || name == "lessthan" || name == "<") return compare(v, taken.need(1, "other")) < 0;
  if (name == "gt" || name == "greaterthan" || name == ">") return compare(v, taken.need(1, "other")) > 0;
  if (name == "le" || name == "<=") return compare(v, taken.need(1, "other")) <= 0;
  if (name == "ge" || name == ">=") return compare(v, taken.need(1, "other")) >= 0;
  if (name == "in") return contains(taken.need(1, "seq"), v);
  if (name == "lower") return v.is(Kind::string) && lower(v.text()).bytes == v.text().bytes;
  if (name == "upper") return v.is(Kind::string) && upper(v.text()).bytes == v.text().bytes;
  fail_render(fmt::format("there is no test '{}'", name));
}

namespace {
Value string_method(const Value& object, const std::string& name) {
  const auto bind = [&](auto body) {
    return Value::function([object, name, body](const Arguments& args) {
      Arguments with_self{{object}, args.named};
      with_self.positional.insert(with_self.positional.end(), args.positional.begin(), args.positional.end());
      return body(object.text(), Taken(name, with_self));
    });
  };
  if (name == "split" || name == "rsplit") {
    return bind([name](const Text& self, const Taken& args) {
      const Value* separator = args.get(1, "sep");
      const bool by_space = !separator || separator->is(Kind::none);
      if (!by_space && to_text(*separator).bytes.empty()) fail_render("split wants a separator that is not empty");
      List out;
      for (Text& part : split(self, by_space ? std::string() : to_text(*separator).bytes, args.integer(2, "maxsplit", -1), name == "rsplit")) out.push_back(Value::string(std::move(part)));
      return Value::list(std::move(out));
    });
  }
  if (name == "strip" || name == "lstrip" || name == "rstrip") {
    return bind([name](const Text& self, const Taken& args) {
      const Value* characters = args.get(1, "chars");
      return Value::string(trim(self, characters && !characters->is(Kind::none) ? to_text(*characters).bytes : std::string(), name != "rstrip", name != "lstrip"));
    });
  }
  if (name == "startswith" || name == "endswith") {
    return bind([name](const Text& self, const Taken& args) {
      const Value& wanted = args.need(1, "prefix");
      const List candidates = wanted.is_list() ? wanted.items() : List{wanted};
      for (const Value& candidate : candidates) {
        const std::string text = to_text(candidate).bytes;
        if (name == "startswith" ? self.bytes.starts_with(text) : self.bytes.ends_with(text)) return Value::boolean(true);
      }
      return Value::boolean(false);
    });
  }
  if (name == "replace") {
    return bind([](const Text& self, const Taken& args) { return Value::string(replace(self, to_text(args.need(1, "old")), to_text(args.need(2, "new")), args.integer(3, "count", -1))); });
  }
  if (name == "upper") return bind([](const Text& self, const Taken&) { return Value::string(upper(self)); });
  if (name == "lower") return bind([](const Text& self, const Taken&) { return Value::string(lower(self)); });
  if (name == "title") return bind([](const Text& self, const Taken&) { return Value::string(title(self)); });
  if (name == "capitalize") return bind([](const Text& self, const Taken&) { return Value::string(capitalize(self)); });
  if (name == "splitlines") {
    return bind([](const Text& self, const Taken&) {
      List out;
      for (Text& line : split_lines(self)) out.push_back(Value::string(std::move(line)));
      return Value::list(std::move(out));
    });
  }
  if (name == "find") {
    return bind([](const Text& self, const Taken& args) {
      const size_t at = self.bytes.find(to_text(args.need(1, "sub")).bytes);
      return Value::integer(at == std::string::npos ? -1 : static_cast<int64_t>(code_points(std::string_view(self.bytes).substr(0, at)).size()));
    });
  }
  if (name == "count") {
    return bind([](const Text& self, const Taken& args) {
      const std::string wanted = to_text(args.need(1, "sub")).bytes;
      int64_t count = 0;
      for (size_t at = 0; !wanted.empty() && (at = self.bytes.find(wanted, at)) != std::string::npos; at += wanted.size()) ++count;
      return Value::integer(count);
    });
  }
  if (name == "join") {
    return bind([](const Text& self, const Taken& args) {
      Text out;
      bool first = true;
      for (const Value& item : iterate(args.need(1, "iterable"))) {
        if (!item.is(Kind::string)) fail_render("join wants strings");
        if (!first) out.append(self);
        first = false;
        out.append(item.text());
      }
      return Value::string(std::move(out));
    });
  }
  if (name == "format") {
    return bind([](const Text& self, const Taken& args) {
      // {} and {0} only: what templates use.
      Text out;
      size_t automatic = 0;
      for (size_t at = 0; at < self.bytes.size();) {
        const size_t open = self.bytes.find('{', at);
        out.append(self.slice(at, std::min(open, self.bytes.size())));
        if (open == std::string::npos) break;
        const size_t close = self.bytes.find('}', open);
        if (close == std::string::npos) fail_render("format: a '{' is not closed");
        const std::string field = self.bytes.substr(open + 1, close - open - 1);
        const bool digits = !field.empty() && field.size() < 4 && field.find_first_not_of("0123456789") == std::string::npos;
        const Value* value = field.empty() ? args.get(1 + automatic++, "") : digits ? args.get(1 + static_cast<size_t>(std::stoi(field)), "") : args.get(999, field);
        if (!value) fail_render(fmt::format("format: nothing for '{{{}}}'", field));
        out.append(to_text(*value));
        at = close + 1;
      }
      return Value::string(std::move(out));
    });
  }
  return Value::undefined(name);
}
}  // namespace

Value method_of(const Value& object, const std::string& name) {
  if (object.is(Kind::string)) return string_method(object, name);
  if (!object.is_mapping()) return Value::undefined(name);
  if (name == "get") {
    return Value::function([object](const Arguments& args) {
      if (args.positional.empty()) fail_render("get wants a key");
      for (const auto& [key, value] : object.pairs()) {
        if (equal(key, args.positional[0])) return value;
      }
      return args.positional.size() > 1 ? args.positional[1] : Value::none();
    });
  }
  if (name == "items") return Value::function([object](const Arguments&) { return items_of(object); });
  if (name == "keys" || name == "values") {
    return Value::function([object, name](const Arguments&) {
      List out;
      for (const auto& [key, value] : object.pairs()) out.push_back(name == "keys" ? key : value);
      return Value::list(std::move(out));
    });
  }
  return Value::undefined(name);
}

Value global_function(const std::string& name) {
  if (name == "range") {
    return Value::function([](const Arguments& args) {
      for (const Value& v : args.positional) {
        if (!v.is(Kind::integer) && !v.is(Kind::boolean)) fail_render("range wants integers");
      }
      const size_t n = args.positional.size();
      if (n < 1 || n > 3) fail_render("range wants one to three integers");
      const int64_t begin = n > 1 ? args.positional[0].as_integer() : 0, end = args.positional[n > 1 ? 1 : 0].as_integer();
      const int64_t step = n > 2 ? args.positional[2].as_integer() : 1;
      if (step == 0) fail_render("range wants a step that is not zero");
      List out;
      for (int64_t i = begin; step > 0 ? i < end : i > end; i += step) {
        if (static_cast<int64_t>(out.size()) > kMaxRange) fail_render("range is too long");
        out.push_back(Value::integer(i));
      }
      return Value::list(std::move(out));
    });
  }
  if (name == "namespace" || name == "dict") {
    const Kind kind = name == "dict" ? Kind::mapping : Kind::scope;
    return Value::function([kind](const Arguments& args) {
      Items items;
      for (const Value& source : args.positional) {
        if (source.is_mapping()) items = source.pairs();
      }
      for (const auto& [key, value] : args.named) items.emplace_back(Value::string(key, true), value);
      return Value::mapping(std::move(items), kind);
    });
  }
  if (name == "raise_exception") {
    return Value::function([](const Arguments& args) -> Value { fail_render(args.positional.empty() ? "the template raised an error" : to_text(args.positional[0]).bytes); });
  }
  if (name == "strftime_now") {
    return Value::function([](const Arguments& args) {
      const std::time_t now = std::time(nullptr);
      std::tm parts{};
      localtime_r(&now, &parts);
      char buffer[256];
      const size_t n = std::strftime(buffer, sizeof buffer, args.positional.empty() ? "%c" : to_text(args.positional[0]).bytes.c_str(), &parts);
      return Value::string(std::string_view(buffer, n), false);
    });
  }
  if (name == "joiner") {
    return Value::function([](const Arguments& args) {
      const Text separator = args.positional.empty() ? Text(", ", true) : to_text(args.positional[0]);
      auto used = std::make_shared<bool>(false);
      return Value::function([separator, used](const Arguments&) { return std::exchange(*used, true) ? Value::string(separator) : Value::string("", true); });
    });
  }
  if (name == "cycler") {
    return Value::function([](const Arguments& args) {
      if (args.positional.empty()) fail_render("cycler wants items");
      auto at = std::make_shared<size_t>(0);
      const List items = args.positional;
      Items members;
      members.emplace_back(Value::string("next", true), Value::function([items, at](const Arguments&) { return items[(*at)++ % items.size()]; }));
      return Value::mapping(std::move(members), Kind::scope);
    });
  }
  return Value::undefined(name);
}
}  // namespace nibble::jinja
