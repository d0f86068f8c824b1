#include "text/tool_arguments.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/utf8.h"

namespace nibble {
namespace {
constexpr std::string_view kSpaces = " \n\t\r";

void append_escaped(std::string& out, std::string_view text) {
  for (const char c : text) {
    switch (c) {
      case '"': out += "\\\""; break;
      case '\\': out += "\\\\"; break;
      case '\n': out += "\\n"; break;
      case '\r': out += "\\r"; break;
      case '\t': out += "\\t"; break;
      case '\b': out += "\\b"; break;
      case '\f': out += "\\f"; break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          out += fmt::format("\\u{:04x}", static_cast<int>(c));
        } else {
          out += c;
        }
    }
  }
}

std::string_view stripped(std::string_view text) {
  const size_t first = text.find_first_not_of(kSpaces);
  return first == std::string_view::npos ? std::string_view() : text.substr(first, text.find_last_not_of(kSpaces) - first + 1);
}

bool all_digits(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

// A JSON number as written, with a leading + dropped and a missing digit beside the point filled in.
std::optional<std::string> as_number(std::string_view word) {
  std::string_view body = word;
  const bool plus = body.starts_with('+');
  if (plus) body.remove_prefix(1);
  const bool minus = body.starts_with('-');
  if (minus && plus) return std::nullopt;
  if (minus) body.remove_prefix(1);
  const size_t e = body.find_first_of("eE");
  const std::string_view mantissa = body.substr(0, e), exponent = e == std::string_view::npos ? std::string_view() : body.substr(e);
  if (!exponent.empty()) {
    std::string_view digits = exponent.substr(1);
    if (digits.starts_with('+') || digits.starts_with('-')) digits.remove_prefix(1);
    if (digits.empty() || !all_digits(digits)) return std::nullopt;
  }
  const size_t point = mantissa.find('.');
  std::string whole(mantissa.substr(0, point)), fraction(point == std::string_view::npos ? std::string_view() : mantissa.substr(point + 1));
  if (!all_digits(whole) || !all_digits(fraction) || (whole.empty() && fraction.empty())) return std::nullopt;
  if (point != std::string_view::npos) {
    if (whole.empty()) whole = "0";
    if (fraction.empty()) fraction = "0";
  }
  if (whole.size() > 1 && whole[0] == '0') return std::nullopt;
  return (minus ? "-" : "") + whole + (point == std::string_view::npos ? "" : "." + fraction) + std::string(exponent);
}

std::string bare_to_json(std::string_view raw) {
  const std::string_view word = stripped(raw);
  std::string lower(word);
  for (char& c : lower) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  if (lower == "true" || lower == "false") return lower;
  if (lower == "null" || lower == "none" || lower == "nil") return "null";
  if (auto number = as_number(word)) return *number;
  return json_quote(word);
}
}  // namespace

std::string json_quote(std::string_view text) {
  std::string out = "\"";
  append_escaped(out, text);
  return out + "\"";
}

void ToolArguments::begin() {
  stack_.push_back({true});
  out_ = "{";
}

void ToolArguments::begin_value() {
  if (stack_.back().members++ > 0) out_ += ", ";
  if (stack_.back().object) out_ += json_quote(key_) + ": ";
  key_.clear();
}

void ToolArguments::put_value(std::string_view json) {
  begin_value();
  out_ += json;
  next();
}

void ToolArguments::next() {
  state_ = stack_.back().object ? State::key : State::element;
  buffer_.clear();
}

void ToolArguments::push(bool object) {
  begin_value();
  stack_.push_back({object});
  out_ += object ? '{' : '[';
  next();
}

void ToolArguments::pop() {
  out_ += stack_.back().object ? '}' : ']';
  stack_.pop_back();
  if (!stack_.empty()) next();
}

void ToolArguments::start_value(std::string_view c) {
  if (c == "\"") {
    state_ = State::json_string;
    buffer_.clear();
  } else if ((c == "{" || c == "[") && stack_.size() < kMaxDepth) {
    push(c == "{");
  } else {
    state_ = State::bare;
    buffer_ = c;
  }
}

void ToolArguments::end_json_string() {
  // Control characters may stand in it as they are; what cannot be decoded stays raw.
  std::string quoted = "\"";
  for (const char c : buffer_) static_cast<unsigned char>(c) < 0x20 ? append_escaped(quoted, std::string_view(&c, 1)) : void(quoted += c);
  const auto decoded = nlohmann::json::parse(quoted + "\"", nullptr, /*allow_exceptions=*/false);
  const std::string text = decoded.is_string() ? decoded.get<std::string>() : buffer_;
  if (state_ == State::key_json) {
    key_ = text;
    state_ = State::after_key;
  } else {
    put_value(json_quote(text));
  }
}

void ToolArguments::character(std::string_view c) {
  const bool space = kSpaces.find(c) != std::string_view::npos;
  switch (state_) {
    case State::raw_string: append_escaped(out_, c); break;
    case State::json_string:
    case State::key_json: {
      const size_t last = buffer_.find_last_not_of('\\');
      const size_t slashes = buffer_.size() - (last == std::string::npos ? 0 : last + 1);
      c == "\"" && slashes % 2 == 0 ? end_json_string() : void(buffer_ += c);
      break;
    }
    case State::key_quoted: key_ += c; break;
    case State::key:
      if (space || c == ",") break;
      if (c == "}") {
        pop();
      } else if (c == "\"") {
        state_ = State::key_json;
        buffer_.clear();
      } else if (c == ":") {
        key_.clear();
        state_ = State::value;
      } else {
        state_ = State::key_bare;
        buffer_ = c;
      }
      break;
    case State::key_bare:
      if (c == ":") {
        key_ = stripped(buffer_);
        state_ = State::value;
      } else if (c == ",") {
        state_ = State::key;
      } else if (c == "}") {
        pop();
      } else {
        buffer_ += c;
      }
      break;
    case State::after_key:
      if (c == ":") {
        state_ = State::value;
      } else if (c == ",") {
        state_ = State::key;
      } else if (c == "}") {
        pop();
      }
      break;
    case State::value:
      if (space || c == "]") break;
      if (c == "," || c == "}") {
        put_value("\"\"");
        if (c == "}") pop();
      } else {
        start_value(c);
      }
      break;
    case State::element:
      if (space || c == "," || c == "}") break;
      c == "]" ? pop() : start_value(c);
      break;
    case State::bare:
      if (c == "," || c == "}" || c == "]") {
        put_value(bare_to_json(buffer_));
        if (c == (stack_.back().object ? "}" : "]")) pop();
      } else {
        buffer_ += c;
      }
      break;
  }
}

void ToolArguments::quote() {
  switch (state_) {
    case State::raw_string:
      out_ += '"';
      next();
      break;
    case State::key_quoted: state_ = State::after_key; break;
    case State::key:
      key_.clear();
      state_ = State::key_quoted;
      break;
    case State::value:
    case State::element:
      begin_value();
      out_ += '"';
      state_ = State::raw_string;
      break;
    case State::json_string:
    case State::key_json: end_json_string(); break;
    case State::bare:  // a word and then a string without a comma between: the word ends here
      put_value(bare_to_json(buffer_));
      quote();
      break;
    case State::key_bare:
    case State::after_key: break;
  }
}

void ToolArguments::close() {
  if (state_ == State::raw_string) {
    out_ += '"';
  } else if (state_ == State::json_string) {
    end_json_string();
  } else if (state_ == State::value) {
    put_value("\"\"");
  } else if (state_ == State::bare) {
    put_value(bare_to_json(buffer_));
  }
  while (!stack_.empty()) {
    out_ += stack_.back().object ? '}' : ']';
    stack_.pop_back();
  }
}
}  // namespace nibble
