#include "eval/grading.h"

#include <algorithm>
#include <boost/multiprecision/cpp_int.hpp>
#include <cctype>
#include <set>
#include <vector>

namespace nibble {
namespace {
using Rational = boost::multiprecision::cpp_rational;
using Integer = boost::multiprecision::cpp_int;

constexpr int kMaxExponent = 64;
constexpr int kMaxDepth = 64;
constexpr unsigned kMaxBits = 1 << 14;  // of a numerator or denominator: towers of powers end here
constexpr size_t kMaxLength = 4096;

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

std::string trim(std::string_view s) {
  constexpr std::string_view kBlanks = " \t\n\r\f\v";
  const size_t from = s.find_first_not_of(kBlanks);
  return from == std::string_view::npos ? std::string() : std::string(s.substr(from, s.find_last_not_of(kBlanks) - from + 1));
}

void replace_all(std::string& s, std::string_view what, std::string_view by) {
  for (size_t at = 0; (at = s.find(what, at)) != std::string::npos; at += by.size()) s.replace(at, what.size(), by);
}

// The index behind the '}' that closes the '{' at `open`; npos when there is none.
size_t after_closing(std::string_view s, size_t open) {
  int depth = 0;
  for (size_t i = open; i < s.size(); ++i) {
    depth += s[i] == '{';
    depth -= s[i] == '}';
    if (depth == 0) return i + 1;
  }
  return std::string_view::npos;
}

// digits[.digits] followed by % or \%: the sign goes.
void drop_plain_percent(std::string& s) {
  std::string_view body = s;
  if (!body.ends_with('%')) return;
  body.remove_suffix(body.ends_with("\\%") ? 2 : 1);
  size_t i = 0;
  while (i < body.size() && is_digit(body[i])) ++i;
  if (i == 0) return;
  if (i < body.size() && body[i] == '.') {
    const size_t fraction = ++i;
    while (i < body.size() && is_digit(body[i])) ++i;
    if (i == fraction) return;
  }
  if (i == body.size()) s.resize(body.size());
}

void unwrap_boxes(std::string& s) {
  for (bool again = true; again;) {
    again = false;
    for (size_t at = s.find("\\boxed{"); at != std::string::npos; at = s.find("\\boxed{", at + 1)) {
      if (after_closing(s, at + 6) != s.size()) continue;
      s = s.substr(at + 7, s.size() - at - 8);
      again = true;
      break;
    }
  }
}

void drop_decoration(std::string& s) {
  for (size_t at; (at = s.find("\\!")) != std::string::npos;) {
    size_t end = at + 2;
    while (end < s.size() && s[end] == ' ') ++end;
    s.erase(at, end - at);
  }
  for (const std::string_view what : {"\\$", "$", "\\displaystyle", "\"", "'", "\\left", "\\right"}) replace_all(s, what, "");
  s = trim(s);
  if (s.starts_with("\\(") || s.starts_with("\\[")) s.erase(0, 2);
  if (s.ends_with("\\)") || s.ends_with("\\]")) s.resize(s.size() - 2);
  s = trim(s);
}

void join_braced_commas(std::string& s) {
  for (size_t at = 0; (at = s.find('{', at)) != std::string::npos; ++at) {
    size_t i = at + 1;
    while (i < s.size() && s[i] == ' ') ++i;
    if (i >= s.size() || s[i] != ',') continue;
    ++i;
    while (i < s.size() && s[i] == ' ') ++i;
    if (i < s.size() && s[i] == '}') s.replace(at, i + 1 - at, ",");
  }
}

void drop_trailing_space(std::string& s) {
  for (bool again = true; again;) {
    again = false;
    for (const std::string_view blank : {"\\,", "\\;", "\\:", "\\ ", " "}) {
      if (!s.ends_with(blank)) continue;
      s.resize(s.size() - blank.size());
      again = true;
    }
  }
}

// One \text{...} or \mbox{...} at the end, perhaps with a power behind it, and the blanks before it.
void drop_trailing_text(std::string& s) {
  for (const std::string_view name : {"\\text{", "\\mbox{"}) {
    for (size_t at = s.find(name); at != std::string::npos; at = s.find(name, at + 1)) {
      const size_t end = after_closing(s, at + name.size() - 1);
      if (end == std::string::npos) continue;
      const std::string_view rest = std::string_view(s).substr(end);
      const bool power = (rest.size() == 2 && rest[0] == '^' && is_digit(rest[1])) || (rest.size() == 4 && rest[0] == '^' && rest[1] == '{' && is_digit(rest[2]) && rest[3] == '}');
      if (!rest.empty() && !power) continue;
      s.resize(at);
      return drop_trailing_space(s);
    }
  }
}

void drop_trailing_sign(std::string& s) {
  for (const std::string_view what : {"^\\circ", "^{\\circ}", "\\%", "%", "percent"}) {
    if (!s.ends_with(what)) continue;
    s = trim(std::string_view(s).substr(0, s.size() - what.size()));
    return;
  }
}

void drop_unit(std::string& s) {
  static const std::set<std::string, std::less<>> kUnits{
      "hour",  "minute", "min",  "second", "sec",   "day",  "month", "year", "yr",   "hr",     "mile", "km",  "m",    "cm",  "mm",  "ft",  "feet",   "inch", "inches", "yard",
      "meter", "metre",  "liter", "litre", "gallon", "gal", "lb",    "pound", "kg",  "g",      "gm",   "degree", "mph", "kmph", "cent", "unit", "number", "apple", "coin",  "toy",
      "student", "man",  "men",  "woman",  "women", "square", "pie", "rupee", "acre", "tile",   "th",   "st",  "rd"};
  size_t at = s.size();
  while (at > 0 && is_letter(s[at - 1])) --at;
  const std::string_view word = std::string_view(s).substr(at);
  if (word.empty()) return;
  size_t before = at;
  while (before > 0 && s[before - 1] == ' ') --before;
  if (before == 0 || (!is_digit(s[before - 1]) && s[before - 1] != '}')) return;
  const bool known = kUnits.contains(word) || (word.ends_with('s') && kUnits.contains(word.substr(0, word.size() - 1))) || (word.ends_with("es") && kUnits.contains(word.substr(0, word.size() - 2)));
  if (known) s.resize(before);
}

// The grammar of docs/formats/grading.md. Any failure makes the whole parse fail.
class Expression {
 public:
  explicit Expression(std::string_view text) : text_(text) {}

  std::optional<Rational> parse() {
    std::optional<Rational> value = expression();
    blanks();
    return value && at_ == text_.size() ? value : std::nullopt;
  }

 private:
  using Value = std::optional<Rational>;

  void blanks() {
    for (bool again = true; again;) {
      again = false;
      for (const std::string_view blank : {" ", "\\,", "\\;", "\\:", "\\!", "\\ ", "\\qquad", "\\quad"}) {
        if (!text_.substr(at_).starts_with(blank)) continue;
        at_ += blank.size();
        again = true;
      }
    }
  }
  bool take(std::string_view token) {
    blanks();
    if (!text_.substr(at_).starts_with(token)) return false;
    at_ += token.size();
    return true;
  }
  static Value bounded(Rational value) {
    const Integer n = abs(numerator(value)), d = denominator(value);
    const bool fits = (n == 0 || msb(n) < kMaxBits) && msb(d) < kMaxBits;
    return fits ? Value(std::move(value)) : std::nullopt;
  }

  Value expression() {
    if (++depth_ > kMaxDepth) return std::nullopt;
    Value left = term();
    while (left) {
      const bool plus = take("+");
      if (!plus && !take("-")) break;
      const Value right = term();
      left = right ? bounded(plus ? Rational(*left + *right) : Rational(*left - *right)) : std::nullopt;
    }
    --depth_;
    return left;
  }
  Value term() {
    Value left = unary();
    while (left) {
      const bool times = take("\\times") || take("\\cdot") || take("*");
      if (!times && !take("\\div") && !take("/")) break;
      const Value right = unary();
      if (!right || (!times && *right == 0)) return std::nullopt;
      left = bounded(times ? Rational(*left * *right) : Rational(*left / *right));
    }
    return left;
  }
  Value unary() {
    bool negative = false;
    while (true) {
      if (take("-")) {
        negative = !negative;
      } else if (!take("+")) {
        break;
      }
    }
    Value value = power();
    if (value && negative) value = -*value;
    return value;
  }
  Value power() {
    const Value base = atom();
    if (!base || !take("^")) return base;
    Value exponent;
    blanks();
    if (at_ < text_.size() && is_digit(text_[at_])) {
      exponent = Rational(text_[at_++] - '0');
    } else if (take("{")) {
      exponent = expression();
      if (!take("}")) return std::nullopt;
    }
    if (!exponent || denominator(*exponent) != 1 || abs(numerator(*exponent)) > kMaxExponent) return std::nullopt;
    const int n = static_cast<int>(numerator(*exponent));
    if (n < 0 && *base == 0) return std::nullopt;
    Value result = Rational(1);
    for (int i = 0; result && i < std::abs(n); ++i) result = bounded(*result * *base);
    return result && n < 0 ? Value(1 / *result) : result;
  }
  Value atom() {
    for (const auto& [open, close] : {std::pair("(", ")"), std::pair("[", "]"), std::pair("{", "}")}) {
      if (!take(open)) continue;
      const Value inner = expression();
      return take(close) ? inner : std::nullopt;
    }
    if (take("\\frac") || take("\\dfrac") || take("\\tfrac") || take("\\cfrac")) {
      const Value top = fraction_part(), bottom = top ? fraction_part() : std::nullopt;
      if (!bottom || *bottom == 0) return std::nullopt;
      return bounded(*top / *bottom);
    }
    return number();
  }
  Value fraction_part() {
    blanks();
    if (at_ < text_.size() && is_digit(text_[at_])) return Rational(text_[at_++] - '0');
    if (!take("{")) return std::nullopt;
    const Value inner = expression();
    return take("}") ? inner : std::nullopt;
  }
  size_t digits_at(size_t at) const {
    size_t n = 0;
    while (at + n < text_.size() && is_digit(text_[at + n])) ++n;
    return n;
  }
  Value number() {
    blanks();
    size_t n = digits_at(at_);
    std::string digits(text_.substr(at_, n));
    at_ += n;
    if (n >= 1 && n <= 3 && at_ < text_.size() && (text_[at_] == ',' || text_[at_] == ' ')) {
      for (const char separator = text_[at_]; at_ < text_.size() && text_[at_] == separator && digits_at(at_ + 1) == 3; at_ += 4) digits += text_.substr(at_ + 1, 3);
    }
    size_t places = 0;
    if (at_ < text_.size() && text_[at_] == '.') {
      places = digits_at(at_ + 1);
      if (n == 0 && places == 0) return std::nullopt;
      digits += text_.substr(at_ + 1, places);
      at_ += 1 + places;
    }
    if (digits.empty()) return std::nullopt;
    digits.erase(0, std::min(digits.find_first_not_of('0'), digits.size() - 1));  // a leading zero would mean octal
    return bounded(Rational(Integer(digits), pow(Integer(10), static_cast<unsigned>(places))));
  }

  std::string_view text_;
  size_t at_ = 0;
  int depth_ = 0;
};
}  // namespace

std::optional<std::string> extract_boxed(std::string_view text) {
  const size_t at = text.rfind("\\boxed");
  if (at == std::string_view::npos) return std::nullopt;
  int depth = 0;
  for (size_t i = at; i < text.size(); ++i) {
    if (text[i] == '{') ++depth;
    if (text[i] != '}') continue;
    if (--depth > 0) continue;
    const std::string_view slice = text.substr(at, i + 1 - at);
    if (depth < 0 || !slice.starts_with("\\boxed{")) return std::nullopt;
    return std::string(slice.substr(7, slice.size() - 8));
  }
  return std::nullopt;
}

std::string canonical_answer(std::string_view answer) {
  std::string s = trim(answer);
  drop_plain_percent(s);
  while (s.ends_with('.') || s.ends_with('\\')) s.pop_back();
  std::replace(s.begin(), s.end(), '\n', ' ');
  std::replace(s.begin(), s.end(), '\t', ' ');
  unwrap_boxes(s);
  drop_decoration(s);
  join_braced_commas(s);
  for (const std::string_view font : {"\\mathrm", "\\mathit", "\\mathbf", "\\textnormal", "\\textbf", "\\textit", "\\textrm"}) replace_all(s, font, "\\text");
  if (s.starts_with("\\text{") && after_closing(s, 5) == s.size()) s = trim(std::string_view(s).substr(6, s.size() - 7));
  drop_trailing_text(s);
  drop_trailing_sign(s);
  if (const size_t equals = s.find('='); equals != std::string::npos && is_letter(s[0])) s = trim(std::string_view(s).substr(equals + 1));
  drop_unit(s);
  return trim(s);
}

bool same_number(std::string_view gold, std::string_view answer) {
  if (answer.size() > kMaxLength) return false;
  const std::string wanted = canonical_answer(gold), given = canonical_answer(answer);
  const auto value = Expression(wanted).parse();
  if (!value) return !wanted.empty() && wanted == given;  // gold that is no number, in data of one's own
  const auto found = Expression(given).parse();
  return found && *found == *value;
}
}  // namespace nibble
