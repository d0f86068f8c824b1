#include "text/regex_grammar.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/utf8.h"
#include "text/string_grammar.h"

namespace nibble {
namespace {
constexpr int64_t kMaxRepeat = 10000;
constexpr int kMaxDepth = 200;

const CharSet& digits() {
  static const CharSet set({{'0', '9'}});
  return set;
}
const CharSet& word_characters() {
  static const CharSet set({{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}});
  return set;
}
const CharSet& ascii_spaces() {
  static const CharSet set({{'\t', '\r'}, {' ', ' '}});
  return set;
}
const CharSet& all_spaces() {
  static const CharSet set({{'\t', '\r'}, {0x1C, 0x20}, {0x85, 0x85}, {0xA0, 0xA0}, {0x1680, 0x1680}, {0x2000, 0x200A}, {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F}, {0x3000, 0x3000}, {0xFEFF, 0xFEFF}});
  return set;
}
const CharSet& line_breaks() {
  static const CharSet set({{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}});
  return set;
}

struct Node {
  enum class Kind { set, sequence, alternatives, repeat, start, end } kind;
  CharSet set;
  std::vector<Node> parts;
  int64_t low = 0, high = 0;
};

class Parser {
 public:
  explicit Parser(std::string_view pattern) : text_(code_points(pattern)), pattern_(pattern) {}

  Node parse() {
    Node node = alternatives(0);
    if (at_ < text_.size()) refuse("an unmatched ')'");
    return node;
  }
  [[noreturn]] void refuse(const std::string& what) const {
    constexpr size_t kShown = 200;
    const std::string shown = pattern_.size() <= kShown ? pattern_ : replace_invalid_utf8(pattern_.substr(0, kShown)) + "...";
    throw Error(ErrorCode::invalid_argument, fmt::format("the regular expression '{}' uses {}, which is not supported", shown, what));
  }

 private:
  bool more() const { return at_ < text_.size(); }
  bool next_is(char c) const { return more() && text_[at_] == static_cast<uint32_t>(c); }
  bool take(char c) {
    const bool found = next_is(c);
    at_ += found;
    return found;
  }

  Node alternatives(int depth) {
    if (depth > kMaxDepth) refuse(fmt::format("groups deeper than {}", kMaxDepth));
    Node node{.kind = Node::Kind::alternatives};
    do node.parts.push_back(sequence(depth));
    while (take('|'));
    return node.parts.size() == 1 ? Node(std::move(node.parts[0])) : node;
  }

  Node sequence(int depth) {
    Node node{.kind = Node::Kind::sequence};
    while (more() && !next_is('|') && !next_is(')')) node.parts.push_back(quantified(depth));
    return node;
  }

  Node quantified(int depth) {
    Node node = atom(depth);
    bool repeated = false;
    while (true) {
      int64_t low = 0, high = -1;
      if (take('*')) {
      } else if (take('+')) {
        low = 1;
      } else if (take('?')) {
        high = 1;
      } else if (!next_is('{') || !counts(low, high)) {
        return node;
      }
      if (std::exchange(repeated, true)) refuse("a quantifier behind a quantifier");
      if (node.kind == Node::Kind::start || node.kind == Node::Kind::end) refuse("a repeated anchor");
      take('?');  // lazy: the same language
      if (low > kMaxRepeat || high > kMaxRepeat) refuse(fmt::format("more than {} repetitions", kMaxRepeat));
      if (high >= 0 && high < low) refuse("a repetition whose limits are out of order");
      Node repeat{.kind = Node::Kind::repeat, .low = low, .high = high};
      repeat.parts.push_back(std::move(node));
      node = std::move(repeat);
    }
  }

  // {n}, {n,}, {n,m}; false: an ordinary brace.
  bool counts(int64_t& low, int64_t& high) {
    const size_t begin = at_;
    const auto number = [&](int64_t& value) {
      const size_t first = at_;
      for (value = 0; more() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_) value = std::min<int64_t>(value * 10 + text_[at_] - '0', 1 << 30);
      return at_ > first;
    };
    ++at_;
    bool good = number(low);
    if (good && take(',')) {
      if (!number(high)) high = -1;
    } else {
      high = low;
    }
    good = good && take('}');
    if (!good) at_ = begin;
    return good;
  }

  Node atom(int depth) {
    const uint32_t c = text_[at_++];
    switch (c) {
      case '^': return {.kind = Node::Kind::start};
      case '$': return {.kind = Node::Kind::end};
      case '.': return of(CharSet::all() - line_breaks());
      case '[': return of(char_class());
      case '(': {
        if (take('?')) {
          if (take('P')) {
            if (!next_is('<')) refuse("a back reference");
          }
          if (take('<')) {
            if (next_is('=') || next_is('!')) refuse("look-behind");
            while (more() && !take('>')) ++at_;
          } else if (next_is('=') || next_is('!')) {
            refuse("look-ahead");
          } else if (!take(':')) {
            refuse("flags or an unknown group");
          }
        }
        Node inside = alternatives(depth + 1);
        if (!take(')')) refuse("an unmatched '('");
        return inside;
      }
      case '*':
      case '+':
      case '?': refuse("a quantifier without anything before it");
      case '\\': return of(escape(/*in_class=*/false));
      default: return of(CharSet({{c, c}}));
    }
  }

  static Node of(CharSet set) { return {.kind = Node::Kind::set, .set = std::move(set)}; }

  uint32_t hex(int count) {
    uint32_t value = 0;
    for (int i = 0; i < count; ++i) {
      const uint32_t c = more() ? text_[at_++] : 0;
      const int digit = c >= '0' && c <= '9' ? static_cast<int>(c - '0') : (c | 32) >= 'a' && (c | 32) <= 'f' ? static_cast<int>((c | 32) - 'a' + 10) : -1;
      if (digit < 0) refuse("an escape with a bad hexadecimal number");
      value = value * 16 + static_cast<uint32_t>(digit);
    }
    return value;
  }

  CharSet escape(bool in_class) {
    if (!more()) refuse("a backslash at its end");
    const uint32_t c = text_[at_++];
    const auto one = [](uint32_t x) { return CharSet({{x, x}}); };
    switch (c) {
      case 'd': return digits();
      case 'D': return CharSet::all() - digits();
      case 'w': return word_characters();
      case 'W': return CharSet({{0, 0x7F}}) - word_characters();
      case 's': return ascii_spaces();
      case 'S': return CharSet::all() - all_spaces();
      case 'n': return one('\n');
      case 'r': return one('\r');
      case 't': return one('\t');
      case 'f': return one('\f');
      case 'v': return one('\v');
      case '0': return one(0);
      case 'x': return one(hex(2));
      case 'u':
        if (take('{')) {
          uint32_t value = 0;
          while (more() && !next_is('}') && value <= 0x10FFFF) value = value * 16 + hex(1);
          if (!take('}') || value > 0x10FFFF) refuse("an escape with a bad hexadecimal number");
          return one(value);
        }
        return one(hex(4));
      case 'b':
        if (in_class) return one('\b');
        refuse("the word boundary \\b");
      case 'B': refuse("the word boundary \\B");
      case 'p':
      case 'P': refuse("a Unicode property \\p");
      case 'k': refuse("a back reference");
      default:
        if (c >= '1' && c <= '9') refuse("a back reference");
        if ((c | 32) >= 'a' && (c | 32) <= 'z') refuse(fmt::format("the escape \\{}", static_cast<char>(c)));
        return one(c);
    }
  }

  CharSet char_class() {
    const bool negated = take('^');
    CharSet set;
    bool first = true;
    while (true) {
      if (!more()) refuse("an unmatched '['");
      if (next_is(']') && !first) break;
      if (next_is(']')) {  // "[]" and "[^]" match nothing and all
        break;
      }
      first = false;
      const auto single = [&]() {
        if (take('\\')) return escape(/*in_class=*/true);
        const uint32_t c = text_[at_++];
        return CharSet({{c, c}});
      };
      const CharSet low = single();
      const bool is_one = low.ranges().size() == 1 && low.ranges()[0].first == low.ranges()[0].second;
      if (is_one && next_is('-') && at_ + 1 < text_.size() && text_[at_ + 1] != ']') {
        ++at_;
        const CharSet high = single();
        if (high.ranges().size() != 1 || high.ranges()[0].first != high.ranges()[0].second || high.ranges()[0].first < low.ranges()[0].first) refuse("a range out of order in [...]");
        set = set | CharSet({{low.ranges()[0].first, high.ranges()[0].first}});
      } else {
        set = set | low;
      }
    }
    ++at_;
    return negated ? CharSet::all() - set : set;
  }

  std::vector<uint32_t> text_;
  std::string pattern_;
  size_t at_ = 0;
};

// Where a character is written in several ways, a few of them are one automaton: with a rule for each, every token would be tried at each step.
constexpr int64_t kRun = 64;
std::string emit_run(const Node& node, const RegexOptions& options) {
  const Node& one = node.parts[0];
  const bool is_set = one.kind == Node::Kind::set && !one.set.empty(), short_enough = std::max(node.low, node.high) > 1 && std::max(node.low, node.high) <= kRun;
  if (!options.string_rules || !is_set || !short_enough || !ebnf_char(one.set, options.spelling).starts_with("(")) return "";
  return characters_rule(*options.string_rules, regex_char(one.set, options.spelling), node.low, node.high);
}

std::string emit(const Node& node, const RegexOptions& options, const Parser& parser) {
  switch (node.kind) {
    case Node::Kind::set:
      if (node.set.empty()) parser.refuse("a class that matches no character");
      return ebnf_char(node.set, options.spelling);
    case Node::Kind::sequence: {
      if (node.parts.empty()) return "\"\"";
      std::string out = "(";
      for (const Node& part : node.parts) out += (out.size() > 1 ? " " : "") + emit(part, options, parser);
      return out + ")";
    }
    case Node::Kind::alternatives: {
      std::vector<std::string> parts;
      for (const Node& part : node.parts) parts.push_back(emit(part, options, parser));
      return ebnf_either(parts);
    }
    case Node::Kind::repeat: {
      const std::string run = emit_run(node, options);
      return run.empty() ? ebnf_repeat(emit(node.parts[0], options, parser), node.low, node.high) : run;
    }
    default: parser.refuse("an anchor inside");
  }
}

// Takes the anchors off the ends of one alternative.
std::string emit_alternative(Node node, const RegexOptions& options, const Parser& parser) {
  if (node.kind != Node::Kind::sequence) {
    Node whole{.kind = Node::Kind::sequence};
    whole.parts.push_back(std::move(node));
    node = std::move(whole);
  }
  bool starts = !options.search, ends = !options.search;
  while (!node.parts.empty() && node.parts.front().kind == Node::Kind::start) {
    starts = true;
    node.parts.erase(node.parts.begin());
  }
  while (!node.parts.empty() && node.parts.back().kind == Node::Kind::end) {
    ends = true;
    node.parts.pop_back();
  }
  // A group around everything: "^(a|b)$", or "(^a$)".
  if (node.parts.size() == 1 && !(starts && ends) && (node.parts[0].kind == Node::Kind::sequence || node.parts[0].kind == Node::Kind::alternatives)) {
    RegexOptions inside = options;
    if (starts == ends && starts == !options.search) {
      std::vector<std::string> parts;
      if (node.parts[0].kind == Node::Kind::sequence) return emit_alternative(node.parts[0], inside, parser);
      for (const Node& part : node.parts[0].parts) parts.push_back(emit_alternative(part, inside, parser));
      return ebnf_either(parts);
    }
  }
  const Node* only = node.parts.size() == 1 && starts && ends ? &node.parts[0] : nullptr;
  while (only && only->kind == Node::Kind::sequence && only->parts.size() == 1) only = &only->parts[0];
  const Node* repeated = only && only->kind == Node::Kind::repeat ? &only->parts[0] : nullptr;
  while (repeated && repeated->kind == Node::Kind::sequence && repeated->parts.size() == 1) repeated = &repeated->parts[0];
  const bool limited = options.min_length > 0 || options.max_length >= 0;
  if (limited && only && only->kind == Node::Kind::set) {
    if (options.min_length > 1 || options.max_length == 0) parser.refuse("a length that does not fit minLength and maxLength");
    return emit(*only, options, parser);
  }
  if (repeated && repeated->kind == Node::Kind::set && !repeated->set.empty()) {
    const int64_t low = std::max(only->low, options.min_length);
    const int64_t high = only->high < 0 ? options.max_length : options.max_length < 0 ? only->high : std::min(only->high, options.max_length);
    if (high >= 0 && high < low) parser.refuse("a length that does not fit minLength and maxLength");
    const bool counts = low > 1 || high > 1;
    if (options.string_rules && counts) return limited_characters(*options.string_rules, regex_char(repeated->set, options.spelling), options.spelling, low, high);
    return ebnf_repeat(emit(*repeated, options, parser), low, high);
  }
  if (limited) parser.refuse("more than one repeated class together with minLength or maxLength");
  const std::string any = ebnf_repeat(ebnf_char(CharSet::all(), options.spelling), 0, -1);
  return fmt::format("({}{}{})", starts ? "" : any + " ", emit(node, options, parser), ends ? "" : " " + any);
}
}  // namespace

std::string regex_to_ebnf(std::string_view pattern, const RegexOptions& options) {
  Parser parser(pattern);
  const Node node = parser.parse();
  if (node.kind != Node::Kind::alternatives) return emit_alternative(node, options, parser);
  std::vector<std::string> parts;
  for (const Node& part : node.parts) parts.push_back(emit_alternative(part, options, parser));
  return ebnf_either(parts);
}
}  // namespace nibble
