#include "app/markdown_view.h"

#include <algorithm>
#include <cctype>

namespace nibble {
namespace {
constexpr const char* kBold = "\033[1m";
constexpr const char* kBoldOff = "\033[22m";
constexpr const char* kItalic = "\033[3m";
constexpr const char* kItalicOff = "\033[23m";
constexpr const char* kCode = "\033[36m";
constexpr const char* kCodeOff = "\033[39m";

bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n'; }
bool is_word(char c) { return std::isalnum(static_cast<unsigned char>(c)) || static_cast<unsigned char>(c) >= 0x80; }

size_t run_length(std::string_view text, size_t at) {
  size_t n = 1;
  while (at + n < text.size() && text[at + n] == text[at]) ++n;
  return n;
}

// Where the run of exactly n such characters begins that ends what began before `from`; npos: nowhere.
size_t closing_run(std::string_view text, size_t from, char mark, size_t n, bool emphasis) {
  for (size_t at = from; at < text.size(); ++at) {
    if (text[at] != mark) continue;
    const size_t found = run_length(text, at);
    const bool inside_word = mark == '_' && at + found < text.size() && is_word(text[at + found]);
    if (found == n && !(emphasis && (is_space(text[at - 1]) || inside_word))) return at;
    at += found - 1;
  }
  return std::string_view::npos;
}

// Appends what is decided and returns how much of `text` that was; all of it when the line is complete. `bold`: the whole line is.
size_t show_inline(std::string_view text, bool complete, char before, bool bold, std::string& out) {
  for (size_t at = 0; at < text.size();) {
    const char c = text[at];
    if (c != '`' && c != '*' && c != '_') {
      out += before = c;
      ++at;
      continue;
    }
    const size_t n = run_length(text, at);
    if (at + n == text.size() && !complete) return at;
    const bool code = c == '`', opens = at + n < text.size() && (code || (n <= 3 && !is_space(text[at + n]) && !is_word(before)));
    const size_t end = opens ? closing_run(text, at + n, c, n, !code) : std::string_view::npos;
    if (opens && !complete && (end == std::string_view::npos || end + n == text.size())) return at;
    if (end == std::string_view::npos) {
      out.append(text, at, n);
      at += n;
    } else {
      const std::string_view inner = text.substr(at + n, end - at - n);
      const bool strong = !code && n >= 2 && !bold, emphatic = !code && n != 2;
      if (code) out += kCode;
      if (strong) out += kBold;
      if (emphatic) out += kItalic;
      if (code) {
        out += inner;
      } else {
        show_inline(inner, true, ' ', bold || strong, out);
      }
      if (emphatic) out += kItalicOff;
      if (strong) out += kBoldOff;
      if (code) out += kCodeOff;
      at = end + n;
    }
    before = c;
  }
  return text.size();
}
}  // namespace

std::string MarkdownView::push(std::string_view text) {
  if (!styles_) return std::string(text);
  std::string out;
  while (!text.empty()) {
    const size_t newline = text.find('\n');
    const bool complete = newline != std::string_view::npos;
    line_ += text.substr(0, complete ? newline : text.size());
    text.remove_prefix(complete ? newline + 1 : text.size());
    if (at_start_ && !begin_line(complete, out)) continue;
    if (fenced_ || fence_line_) {
      out += line_;
      line_.clear();
    } else {
      const size_t shown = show_inline(line_, complete, before_, heading_, out);
      if (shown > 0) before_ = line_[shown - 1];
      line_.erase(0, shown);
    }
    if (complete) {
      end_line(out);
      out += '\n';
    }
  }
  return out;
}

std::string MarkdownView::finish() {
  if (!styles_) return {};
  std::string out;
  if (at_start_ && !line_.empty()) begin_line(true, out);
  if (fenced_ || fence_line_) {
    out += line_;
  } else {
    show_inline(line_, true, before_, heading_, out);
  }
  end_line(out);
  if (fenced_) out += kCodeOff;
  *this = MarkdownView(styles_);
  return out;
}

// Takes the marks that begin a line out of line_. False: more of the line must come first.
bool MarkdownView::begin_line(bool complete, std::string& out) {
  const size_t indent = std::min(line_.find_first_not_of(' '), line_.size());
  const std::string_view rest = std::string_view(line_).substr(indent);
  if (rest.empty() && !complete) return false;
  const auto starts_fence = [&](size_t least) {
    const size_t n = rest.empty() ? 0 : run_length(rest, 0);
    return n >= least && (rest[0] == '`' || rest[0] == '~') ? n : 0;
  };
  if (fenced_) {
    const bool may_close = rest.empty() || std::all_of(rest.begin(), rest.end(), [&](char c) { return c == fence_[0]; });
    if (may_close && !complete) return false;
    at_start_ = false;
    if (!may_close || rest.size() < fence_.size()) return true;
    fenced_ = false;
    fence_line_ = true;
    out += kCodeOff;
    out += "\033[2m";
    return true;
  }
  // A mark that could still grow, or needs the blank behind it.
  const bool only_marks = std::all_of(rest.begin(), rest.end(), [&](char c) { return c == rest[0]; }) && std::string_view("#-*+>`~").find(rest.empty() ? 'x' : rest[0]) != std::string_view::npos;
  if (only_marks && !complete) return false;
  if (const size_t n = starts_fence(3); n > 0 && rest.substr(n).find('`') == std::string_view::npos) {
    if (!complete) return false;
    fence_ = std::string(rest.substr(0, n));
    at_start_ = false;
    fence_line_ = fenced_ = true;
    out += "\033[2m";
    return true;
  }
  at_start_ = false;
  before_ = ' ';
  const size_t marks = rest.empty() ? 0 : run_length(rest, 0);
  if (!rest.empty() && rest[0] == '#' && marks <= 6 && rest.size() > marks && rest[marks] == ' ') {
    heading_ = true;
    out += kBold;
    line_.erase(0, indent + marks + 1);
  } else if (rest.size() > 1 && (rest[0] == '-' || rest[0] == '*' || rest[0] == '+') && rest[1] == ' ') {
    out += std::string(indent, ' ') + "• ";
    line_.erase(0, indent + 2);
  } else if (!rest.empty() && rest[0] == '>') {
    out += "\033[2m│\033[22m ";
    line_.erase(0, indent + (rest.size() > 1 && rest[1] == ' ' ? 2 : 1));
  }
  return true;
}

void MarkdownView::end_line(std::string& out) {
  line_.clear();
  if (heading_) out += kBoldOff;
  if (fence_line_) {
    out += kBoldOff;  // of dim, too
    if (fenced_) out += kCode;
  }
  heading_ = fence_line_ = false;
  at_start_ = true;
  before_ = '\n';
}
}  // namespace nibble
