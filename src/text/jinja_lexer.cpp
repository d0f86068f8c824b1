#include "text/jinja_lexer.h"

#include <algorithm>

#include "base/utf8.h"
#include "text/jinja_ast.h"

namespace nibble::jinja {
namespace {
bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v'; }
bool is_name_start(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(source) {
    if (source_.ends_with("\r\n")) {
      source_.remove_suffix(2);
    } else if (source_.ends_with('\n') || source_.ends_with('\r')) {
      source_.remove_suffix(1);  // one newline at the end of a template does not count
    }
  }

  std::vector<Token> run() {
    while (at_ < source_.size()) {
      const size_t open = find_open();
      const std::string_view kind = source_.substr(std::min(open, source_.size()), 2);
      take_text(open, kind);
      if (open >= source_.size()) break;
      if (kind == "{#") {
        skip_comment();
      } else {
        take_tag(kind == "{{");
      }
    }
    add(TokenKind::end, "");
    return std::move(tokens_);
  }

 private:
  size_t find_open() const {
    for (size_t at = at_; at + 1 < source_.size(); ++at) {
      if (source_[at] == '{' && (source_[at + 1] == '{' || source_[at + 1] == '%' || source_[at + 1] == '#')) return at;
    }
    return source_.size();
  }

  void add(TokenKind kind, std::string text) { tokens_.push_back({kind, std::move(text), line_}); }
  [[noreturn]] void fail(std::string message) const { throw SyntaxError{line_, std::move(message)}; }
  void advance_to(size_t end) {
    line_ += static_cast<int>(std::count(source_.begin() + static_cast<int64_t>(at_), source_.begin() + static_cast<int64_t>(end), '\n'));
    at_ = end;
  }

  // The text before a tag at `open`, with what the tag's own left side strips.
  void take_text(size_t open, std::string_view kind) {
    std::string text(source_.substr(at_, open - at_));
    if (trim_next_) {
      size_t keep = 0;
      while (keep < text.size() && is_space(text[keep])) ++keep;
      text.erase(0, keep);
    } else if (drop_newline_ && !text.empty()) {
      if (text.starts_with("\r\n")) {
        text.erase(0, 2);
      } else if (text[0] == '\n') {
        text.erase(0, 1);
      }
    }
    trim_next_ = drop_newline_ = false;
    if (open < source_.size()) {
      const char mark = open + 2 < source_.size() ? source_[open + 2] : ' ';
      if (mark == '-') {
        while (!text.empty() && is_space(text.back())) text.pop_back();
      } else if (mark != '+' && kind != "{{") {
        strip_indent(text, open);
      }
    }
    if (!text.empty()) add(TokenKind::text, std::move(text));
    advance_to(open);
  }

  // Blanks between the start of a line and a block tag or comment.
  void strip_indent(std::string& text, size_t open) const {
    size_t begin = open;
    while (begin > 0 && source_[begin - 1] != '\n') --begin;
    const bool blank = std::all_of(source_.begin() + static_cast<int64_t>(begin), source_.begin() + static_cast<int64_t>(open), is_space);
    if (!blank) return;
    size_t keep = text.rfind('\n');
    keep = keep == std::string::npos ? 0 : keep + 1;
    text.erase(keep);
  }

  void skip_comment() {
    const size_t end = source_.find("#}", at_ + 2);
    if (end == std::string_view::npos) fail("a comment is not closed");
    const char mark = end > at_ + 2 ? source_[end - 1] : ' ';
    advance_to(end + 2);
    mark == '-' ? trim_next_ = true : drop_newline_ = mark != '+';
  }

  void take_tag(bool output) {
    add(output ? TokenKind::begin_output : TokenKind::begin_block, "");
    advance_to(at_ + 2);
    if (at_ < source_.size() && (source_[at_] == '-' || source_[at_] == '+')) advance_to(at_ + 1);
    const std::string_view close = output ? "}}" : "%}";
    int depth = 0;
    while (true) {
      while (at_ < source_.size() && is_space(source_[at_])) advance_to(at_ + 1);
      if (at_ >= source_.size()) fail("a tag is not closed");
      const std::string_view rest = source_.substr(at_);
      if (depth == 0) {
        const bool trimmed = rest[0] == '-' && rest.substr(1).starts_with(close), kept = rest[0] == '+' && rest.substr(1).starts_with(close);
        if (trimmed || kept || rest.starts_with(close)) {
          advance_to(at_ + 2 + (trimmed || kept));
          add(output ? TokenKind::end_output : TokenKind::end_block, "");
          if (trimmed) trim_next_ = true;
          if (!output && !trimmed && !kept) drop_newline_ = true;
          return;
        }
      }
      take_token(rest, depth);
    }
  }

  void take_token(std::string_view rest, int& depth) {
    const char c = rest[0];
    if (is_name_start(c)) {
      size_t n = 1;
      while (n < rest.size() && (is_name_start(rest[n]) || is_digit(rest[n]))) ++n;
      add(TokenKind::name, std::string(rest.substr(0, n)));
      advance_to(at_ + n);
    } else if (is_digit(c)) {
      take_number(rest);
    } else if (c == '"' || c == '\'') {
      take_string(rest);
    } else {
      for (const std::string_view symbol : {"//", "**", "==", "!=", "<=", ">="}) {
        if (rest.starts_with(symbol)) {
          add(TokenKind::symbol, std::string(symbol));
          advance_to(at_ + 2);
          return;
        }
      }
      if (std::string_view("+-*/%~()[]{},.:|=<>").find(c) == std::string_view::npos) fail(std::string("unexpected character '") + c + "'");
      depth += (c == '(' || c == '[' || c == '{') - (c == ')' || c == ']' || c == '}');
      add(TokenKind::symbol, std::string(1, c));
      advance_to(at_ + 1);
    }
  }

  void take_number(std::string_view rest) {
    size_t n = 0;
    bool floating = false;
    const auto digits = [&] {
      while (n < rest.size() && (is_digit(rest[n]) || rest[n] == '_')) ++n;
    };
    digits();
    if (n + 1 < rest.size() && rest[n] == '.' && is_digit(rest[n + 1])) {
      floating = true;
      ++n;
      digits();
    }
    if (n + 1 < rest.size() && (rest[n] == 'e' || rest[n] == 'E')) {
      const size_t sign = rest[n + 1] == '+' || rest[n + 1] == '-';
      if (n + 1 + sign < rest.size() && is_digit(rest[n + 1 + sign])) {
        floating = true;
        n += 1 + sign;
        digits();
      }
    }
    std::string text(rest.substr(0, n));
    std::erase(text, '_');
    add(floating ? TokenKind::floating : TokenKind::integer, std::move(text));
    advance_to(at_ + n);
  }

  void take_string(std::string_view rest) {
    const char quote = rest[0];
    std::string value;
    size_t n = 1;
    for (;; ++n) {
      if (n >= rest.size()) fail("a string is not closed");
      if (rest[n] == quote) break;
      if (rest[n] != '\\') {
        value += rest[n];
        continue;
      }
      if (++n >= rest.size()) fail("a string is not closed");
      const auto hex = [&](size_t count) {
        uint32_t code = 0;
        for (size_t i = 0; i < count; ++i) {
          const char h = n + 1 < rest.size() ? rest[++n] : ' ';
          const int digit = is_digit(h) ? h - '0' : h >= 'a' && h <= 'f' ? h - 'a' + 10 : h >= 'A' && h <= 'F' ? h - 'A' + 10 : -1;
          if (digit < 0) fail("a \\x or \\u escape wants hex digits");
          code = code * 16 + static_cast<uint32_t>(digit);
        }
        append_utf8(value, code > 0x10ffff || (code >= 0xd800 && code < 0xe000) ? 0xfffd : code);
      };
      switch (rest[n]) {
        case 'n': value += '\n'; break;
        case 't': value += '\t'; break;
        case 'r': value += '\r'; break;
        case '0': value += '\0'; break;
        case 'x': hex(2); break;
        case 'u': hex(4); break;
        case 'U': hex(8); break;
        case '\n': break;
        case '\\':
        case '\'':
        case '"': value += rest[n]; break;
        default:
          value += '\\';
          value += rest[n];
      }
    }
    add(TokenKind::string, std::move(value));
    advance_to(at_ + n + 1);
  }

  std::string_view source_;
  size_t at_ = 0;
  int line_ = 1;
  bool trim_next_ = false, drop_newline_ = false;
  std::vector<Token> tokens_;
};
}  // namespace

std::vector<Token> tokenize(std::string_view source) { return Lexer(source).run(); }
}  // namespace nibble::jinja
