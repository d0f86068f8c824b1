#include "text/ebnf.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/utf8.h"

namespace nibble {
namespace {
constexpr uint32_t kFirstSurrogate = 0xD800, kLastSurrogate = 0xDFFF;

// Names a character inside a literal or a class without any doubt about escapes.
std::string escaped(uint32_t c) {
  const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == ' ' || c == ',' || c == ':';
  if (plain) return std::string(1, static_cast<char>(c));
  return c <= 0xFFFF ? fmt::format("\\u{:04x}", c) : fmt::format("\\U{:08x}", c);
}

std::string json_escape(uint32_t c) {
  switch (c) {
    case '"': return "\\\"";
    case '\\': return "\\\\";
    case '\n': return "\\n";
    case '\r': return "\\r";
    case '\t': return "\\t";
    case '\b': return "\\b";
    case '\f': return "\\f";
    default: return fmt::format("\\u{:04x}", c);
  }
}
const CharSet& needs_json_escape() {
  static const CharSet set({{0, 0x1F}, {'"', '"'}, {'\\', '\\'}});
  return set;
}
}  // namespace

CharSet::CharSet(std::vector<Range> ranges) {
  std::vector<Range> real;
  for (const auto& [low, high] : ranges) {
    if (low < kFirstSurrogate) real.emplace_back(low, std::min(high, kFirstSurrogate - 1));
    if (high > kLastSurrogate) real.emplace_back(std::max(low, kLastSurrogate + 1), high);
  }
  std::sort(real.begin(), real.end());
  for (const Range& r : real) {
    if (r.first > r.second) continue;
    if (!ranges_.empty() && r.first <= ranges_.back().second + 1) {
      ranges_.back().second = std::max(ranges_.back().second, r.second);
    } else {
      ranges_.push_back(r);
    }
  }
}

CharSet CharSet::operator|(const CharSet& other) const {
  std::vector<Range> both = ranges_;
  both.insert(both.end(), other.ranges_.begin(), other.ranges_.end());
  return CharSet(std::move(both));
}

CharSet CharSet::operator-(const CharSet& other) const {
  std::vector<Range> left;
  for (Range r : ranges_) {
    bool gone = false;
    for (const auto& [low, high] : other.ranges_) {
      if (high < r.first || low > r.second) continue;
      if (low > r.first) left.emplace_back(r.first, low - 1);
      gone = high >= r.second;
      if (gone) break;
      r.first = high + 1;
    }
    if (!gone) left.push_back(r);
  }
  return CharSet(std::move(left));
}

bool CharSet::contains(uint32_t c) const {
  return std::any_of(ranges_.begin(), ranges_.end(), [&](const Range& r) { return c >= r.first && c <= r.second; });
}

std::string CharSet::ebnf() const {
  std::string out = "[";
  for (const auto& [low, high] : ranges_) {
    out += escaped(low);
    if (high > low) out += (high > low + 1 ? "-" : "") + escaped(high);
  }
  return out + "]";
}

std::vector<uint32_t> code_points(std::string_view utf8) {
  std::vector<uint32_t> out;
  for (size_t at = 0; at < utf8.size();) {
    const Utf8Step step = decode_utf8(utf8, at);
    out.push_back(step.code_point);
    at += step.length;
  }
  return out;
}

std::string ebnf_literal(std::string_view utf8) {
  std::string out = "\"";
  for (const uint32_t c : code_points(utf8)) out += escaped(c);
  return out + "\"";
}

std::string ebnf_text(std::string_view utf8, Spelling spelling) {
  if (spelling != Spelling::json) return ebnf_literal(utf8);
  std::string out = "\"";
  for (const uint32_t c : code_points(utf8)) {
    if (!needs_json_escape().contains(c)) {
      out += escaped(c);
    } else {
      for (const char e : json_escape(c)) out += escaped(static_cast<unsigned char>(e));
    }
  }
  return out + "\"";
}

std::string ebnf_char(const CharSet& set, Spelling spelling) {
  if (spelling != Spelling::json) return set.ebnf();
  std::vector<std::string> alternatives;
  if (const CharSet plain = set - needs_json_escape(); !plain.empty()) alternatives.push_back(plain.ebnf());
  const CharSet to_escape = set & needs_json_escape();
  for (const auto& [low, high] : to_escape.ranges()) {
    for (uint32_t c = low; c <= high; ++c) alternatives.push_back(ebnf_literal(json_escape(c)));
  }
  return ebnf_either(alternatives);
}

std::string regex_char(const CharSet& set, Spelling spelling) {
  const auto character = [](uint32_t c) {
    std::string out;
    if (c < 0x80) return fmt::format("\\x{:02x}", c);
    append_utf8(out, c);
    return out;
  };
  const CharSet to_escape = spelling == Spelling::json ? set & needs_json_escape() : CharSet(), as_is = set - to_escape;
  std::string out;
  // One class for each length in bytes: the compiler's own steps from one to the next would begin at E0 80 and F0 80, which are no characters.
  for (const CharSet::Range& length : {CharSet::Range{0, 0x7F}, {0x80, 0x7FF}, {0x800, 0xFFFF}, {0x10000, 0x10FFFF}}) {
    const CharSet part = as_is & CharSet({length});
    if (part.empty()) continue;
    out += out.empty() ? "(" : "|";
    out += "[";
    for (const auto& [low, high] : part.ranges()) out += character(low) + (high > low ? "-" + character(high) : "");
    out += "]";
  }
  for (const auto& [low, high] : to_escape.ranges()) {
    for (uint32_t c = low; c <= high; ++c) {
      out += out.empty() ? "(" : "|";
      for (const char e : json_escape(c)) out += character(static_cast<unsigned char>(e));
    }
  }
  return out + ")";
}

std::string ebnf_either(const std::vector<std::string>& alternatives) {
  if (alternatives.size() == 1) return alternatives[0];
  std::string out = "(";
  for (size_t i = 0; i < alternatives.size(); ++i) out += (i ? " | " : "") + alternatives[i];
  return out + ")";
}

std::string ebnf_repeat(const std::string& what, int64_t low, int64_t high) {
  if (high == 0) return "\"\"";
  if (low == 1 && high == 1) return what;
  const bool grouped = (what.starts_with("(") && what.ends_with(")")) || (what.starts_with("[") && what.ends_with("]"));  // and not yet repeated
  const std::string group = grouped ? what : "(" + what + ")";
  if (low == 0 && high == 1) return group + "?";
  if (high < 0) return low == 0 ? group + "*" : low == 1 ? group + "+" : fmt::format("({}{{{}}} {}*)", group, low, group);  // masks of x{n,} are slow
  return low == high ? fmt::format("{}{{{}}}", group, low) : fmt::format("{}{{{},{}}}", group, low, high);
}

std::string EbnfRules::reserve() { return fmt::format("{}{}", prefix_, count_++); }

void EbnfRules::define(const std::string& name, const std::string& expression) {
  text_ += fmt::format("{} ::= {}\n", name, expression);
  if (text_.size() > kMaxBytes) throw Error(ErrorCode::invalid_argument, fmt::format("the grammar is larger than {} KiB; use a smaller schema", kMaxBytes >> 10));
}

std::string EbnfRules::add(const std::string& expression) {
  std::string name = reserve();
  define(name, expression);
  return name;
}
}  // namespace nibble
