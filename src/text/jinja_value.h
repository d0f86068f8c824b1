// Values of the template language: Python's, as far as templates can tell.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace nibble::jinja {
// Raised inside the engine and turned into a Result at its edge.
struct RenderError {
  std::string message;
};

[[noreturn]] void fail_render(std::string message);

// What a render may still do, in bytes copied or looked at: a short template can ask for endless work, and strings that double grow without end. Per thread; each
// thread renders one template at a time. Outside of a render nothing is counted.
class WorkLimit {
 public:
  explicit WorkLimit(int64_t bytes);
  ~WorkLimit();
  WorkLimit(const WorkLimit&) = delete;
  WorkLimit& operator=(const WorkLimit&) = delete;
};
void charge_work(size_t bytes);  // raises RenderError when it is used up

// A string and, byte by byte, whether the template wrote it ('\1') or data ('\0').
struct Text {
  static constexpr size_t kMaxBytes = size_t{64} << 20;
  std::string bytes, origin;

  Text() = default;
  Text(std::string_view s, bool trusted) : bytes(s), origin(s.size(), trusted ? '\1' : '\0') {}
  void append(const Text& other) {
    if (bytes.size() + other.bytes.size() > kMaxBytes) fail_render("a text grows beyond 64 MiB");
    charge_work(other.bytes.size());
    bytes += other.bytes;
    origin += other.origin;
  }
  Text slice(size_t begin, size_t end) const {
    Text out;
    out.bytes = bytes.substr(begin, end - begin);
    out.origin = origin.substr(begin, end - begin);
    return out;
  }
};

class Value;
using List = std::vector<Value>;
using Items = std::vector<std::pair<Value, Value>>;
struct Arguments {
  List positional;
  std::vector<std::pair<std::string, Value>> named;
};
using Function = std::function<Value(const Arguments&)>;

enum class Kind : uint8_t { undefined, none, boolean, integer, floating, string, list, tuple, mapping, scope, function };

class Value {
 public:
  Value() = default;
  static Value none() { return Value(Kind::none); }
  static Value boolean(bool b);
  static Value integer(int64_t i);
  static Value big_integer(std::string digits);  // beyond int64: only printed and compared
  static Value floating(double d);
  static Value string(Text text);
  static Value string(std::string_view text, bool trusted) { return string(Text(text, trusted)); }
  static Value list(List items, Kind kind = Kind::list);
  static Value mapping(Items items, Kind kind = Kind::mapping);
  static Value function(Function f);
  static Value undefined(std::string name);
  static Value from_json(const nlohmann::ordered_json& json, bool trusted);

  Kind kind() const { return kind_; }
  bool is(Kind kind) const { return kind_ == kind; }
  bool is_number() const { return kind_ == Kind::boolean || kind_ == Kind::integer || kind_ == Kind::floating; }
  bool is_list() const { return kind_ == Kind::list || kind_ == Kind::tuple; }
  bool is_mapping() const { return kind_ == Kind::mapping; }
  bool truth() const;
  int64_t as_integer() const { return integer_; }  // of booleans and integers
  double as_double() const { return kind_ == Kind::floating ? floating_ : static_cast<double>(integer_); }
  const Text& text() const { return *text_; }
  const List& items() const { return *list_; }
  const Items& pairs() const { return *pairs_; }
  Items& pairs_in_place() const { return *pairs_; }  // of a namespace: shared by all who hold it
  const Function& callable() const { return *function_; }
  const std::string& digits() const { return text_->bytes; }
  bool is_big() const { return kind_ == Kind::integer && text_ != nullptr; }

  const Value* find(std::string_view key) const;  // item of a mapping or namespace by string key
  std::string_view type_name() const;
  bool holds_scope() const { return holds_scope_; }  // is a namespace, or has one inside

 private:
  explicit Value(Kind kind) : kind_(kind) {}
  void take_depth_of(const Value& part);  // raises beyond 300 levels, which recursive code could not bear

  Kind kind_ = Kind::undefined;
  bool holds_scope_ = false;
  uint16_t depth_ = 0;
  int64_t integer_ = 0;
  double floating_ = 0;
  std::shared_ptr<const Text> text_;  // strings; the name of an undefined; digits of a big integer
  std::shared_ptr<const List> list_;
  std::shared_ptr<Items> pairs_;
  std::shared_ptr<const Function> function_;
};

bool equal(const Value& a, const Value& b);
int compare(const Value& a, const Value& b);     // <0, 0, >0; raises RenderError when Python would
Text to_text(const Value& value);                // str(); undefined gives nothing
std::string to_repr(const Value& value);         // repr()
std::string float_repr(double d);

// One element per code point, as byte ranges.
std::vector<std::pair<size_t, size_t>> code_points(std::string_view text);
// The values that a for loop visits; raises for what is not iterable.
List iterate(const Value& value);
}  // namespace nibble::jinja
