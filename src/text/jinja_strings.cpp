#include "text/jinja_strings.h"

#include <fmt/format.h>

#include <algorithm>
#include <clocale>
#include <cwctype>

#include "base/utf8.h"

namespace nibble::jinja {
namespace {
// The C library's tables, in a UTF-8 locale of our own: the process's locale is not touched.
locale_t utf8_locale() {
  static const locale_t locale = newlocale(LC_CTYPE_MASK, "C.UTF-8", nullptr);
  return locale;
}
uint32_t upper_char(uint32_t c) { return c < 0x80 ? (c >= 'a' && c <= 'z' ? c - 32 : c) : utf8_locale() ? static_cast<uint32_t>(towupper_l(static_cast<wint_t>(c), utf8_locale())) : c; }
uint32_t lower_char(uint32_t c) { return c < 0x80 ? (c >= 'A' && c <= 'Z' ? c + 32 : c) : utf8_locale() ? static_cast<uint32_t>(towlower_l(static_cast<wint_t>(c), utf8_locale())) : c; }
bool is_letter(uint32_t c) { return c < 0x80 ? (c | 32) >= 'a' && (c | 32) <= 'z' : utf8_locale() && iswalpha_l(static_cast<wint_t>(c), utf8_locale()); }

// One character to several, from the Unicode standard's SpecialCasing.
std::string_view special_upper(uint32_t c) {
  switch (c) {
    case 0xdf: return "SS";
    case 0x149: return "\u02BCN";
    case 0x1f0: return "J\u030C";
    case 0x390: return "\u0399\u0308\u0301";
    case 0x3b0: return "\u03A5\u0308\u0301";
    case 0x587: return "\u0535\u0552";
    case 0xfb00: return "FF";
    case 0xfb01: return "FI";
    case 0xfb02: return "FL";
    case 0xfb03: return "FFI";
    case 0xfb04: return "FFL";
    case 0xfb05:
    case 0xfb06: return "ST";
    default: return {};
  }
}

template <typename Map>
Text map_characters(const Text& text, const Map& map) {
  Text out;
  for (const auto& [begin, end] : code_points(text.bytes)) {
    std::string mapped;
    map(decode_utf8(text.bytes, begin).code_point, mapped);
    out.origin.append(mapped.size(), text.origin[begin]);
    out.bytes += mapped;
  }
  return out;
}

void append_upper(uint32_t c, std::string& out) {
  const std::string_view special = special_upper(c);
  special.empty() ? append_utf8(out, upper_char(c)) : void(out += special);
}
void append_lower(uint32_t c, std::string& out) {
  if (c == 0x130) {
    out += "i\u0307";
  } else {
    append_utf8(out, lower_char(c));
  }
}
}  // namespace

Text upper(const Text& text) { return map_characters(text, append_upper); }
Text lower(const Text& text) { return map_characters(text, append_lower); }

Text title(const Text& text) {
  bool inside = false;
  return map_characters(text, [&](uint32_t c, std::string& out) {
    inside ? append_lower(c, out) : append_upper(c, out);
    inside = is_letter(c);
  });
}

Text capitalize(const Text& text) {
  bool first = true;
  return map_characters(text, [&](uint32_t c, std::string& out) { std::exchange(first, false) ? append_upper(c, out) : append_lower(c, out); });
}

bool is_python_space(uint32_t c) {
  return (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 ||
         c == 0x202f || c == 0x205f || c == 0x3000;
}

Text trim(const Text& text, std::string_view characters, bool left, bool right) {
  const auto all = code_points(text.bytes);
  const auto goes = [&](const std::pair<size_t, size_t>& range) {
    if (characters.empty()) return is_python_space(decode_utf8(text.bytes, range.first).code_point);
    return characters.find(std::string_view(text.bytes).substr(range.first, range.second - range.first)) != std::string_view::npos;
  };
  size_t first = 0, last = all.size();
  while (left && first < last && goes(all[first])) ++first;
  while (right && last > first && goes(all[last - 1])) --last;
  return first == last ? Text() : text.slice(all[first].first, all[last - 1].second);
}

Text replace(const Text& text, const Text& from, const Text& to, int64_t count) {
  Text out;
  size_t at = 0;
  if (from.bytes.empty()) return text;
  while (count != 0) {
    const size_t found = text.bytes.find(from.bytes, at);
    if (found == std::string::npos) break;
    out.append(text.slice(at, found));
    out.append(to);
    at = found + from.bytes.size();
    --count;
  }
  out.append(text.slice(at, text.bytes.size()));
  return out;
}

std::vector<Text> split(const Text& text, std::string_view separator, int64_t limit, bool from_right) {
  std::vector<std::pair<size_t, size_t>> cuts;  // of the separators
  if (separator.empty()) {
    const auto all = code_points(text.bytes);
    std::vector<Text> out;
    for (size_t i = 0; i < all.size();) {
      while (i < all.size() && is_python_space(decode_utf8(text.bytes, all[i].first).code_point)) ++i;
      if (i == all.size()) break;
      const size_t begin = all[i].first;
      if (limit >= 0 && static_cast<int64_t>(out.size()) == limit) {
        out.push_back(trim(text.slice(begin, text.bytes.size()), {}, false, true));
        break;
      }
      while (i < all.size() && !is_python_space(decode_utf8(text.bytes, all[i].first).code_point)) ++i;
      out.push_back(text.slice(begin, i < all.size() ? all[i].first : text.bytes.size()));
    }
    return out;
  }
  for (size_t at = 0; (at = text.bytes.find(separator, at)) != std::string::npos; at += separator.size()) cuts.emplace_back(at, at + separator.size());
  if (limit >= 0 && static_cast<int64_t>(cuts.size()) > limit) {
    from_right ? cuts.erase(cuts.begin(), cuts.end() - limit) : cuts.erase(cuts.begin() + limit, cuts.end());
  }
  std::vector<Text> out;
  size_t begin = 0;
  for (const auto& [first, end] : cuts) {
    out.push_back(text.slice(begin, first));
    begin = end;
  }
  out.push_back(text.slice(begin, text.bytes.size()));
  return out;
}

std::vector<Text> split_lines(const Text& text) {
  std::vector<Text> out;
  for (size_t begin = 0; begin < text.bytes.size();) {
    const size_t end = std::min(text.bytes.find_first_of("\n\r", begin), text.bytes.size());
    out.push_back(text.slice(begin, end));
    begin = end + (text.bytes.compare(end, 2, "\r\n") == 0 ? 2 : 1);
  }
  return out;
}

namespace {
void append_json_string(Text& out, const Text& text, bool ensure_ascii) {
  out.append(Text("\"", true));
  for (const auto& [begin, end] : code_points(text.bytes)) {
    const uint32_t c = decode_utf8(text.bytes, begin).code_point;
    std::string escaped;
    switch (c) {
      case '"': escaped = "\\\""; break;
      case '\\': escaped = "\\\\"; break;
      case '\n': escaped = "\\n"; break;
      case '\r': escaped = "\\r"; break;
      case '\t': escaped = "\\t"; break;
      case '\b': escaped = "\\b"; break;
      case '\f': escaped = "\\f"; break;
      default:
        if (c < 0x20 || (ensure_ascii && c >= 0x7f && c < 0x10000)) {
          escaped = fmt::format("\\u{:04x}", c);
        } else if (ensure_ascii && c >= 0x10000) {
          escaped = fmt::format("\\u{:04x}\\u{:04x}", 0xd800 + ((c - 0x10000) >> 10), 0xdc00 + (c & 0x3ff));
        }
    }
    escaped.empty() ? out.append(text.slice(begin, end)) : out.append(Text(escaped, false));
  }
  out.append(Text("\"", true));
}
}  // namespace

void append_json(Text& out, const Value& value, const JsonStyle& style, int depth) {
  if (depth > 200) fail_render("tojson: nested too deeply");
  const auto plain = [&](std::string_view text) { out.append(Text(text, false)); };
  const auto line_break = [&](int at) {
    if (style.indent) plain("\n" + std::string(static_cast<size_t>(std::clamp<int64_t>(*style.indent * at, 0, 10000)), ' '));
  };
  switch (value.kind()) {
    case Kind::undefined: fail_render("tojson: an undefined value");
    case Kind::none: return plain("null");
    case Kind::boolean: return plain(value.as_integer() ? "true" : "false");
    case Kind::integer:
    case Kind::floating: return plain(to_repr(value));
    case Kind::string: return append_json_string(out, value.text(), style.ensure_ascii);
    case Kind::list:
    case Kind::tuple: {
      plain("[");
      for (size_t i = 0; i < value.items().size(); ++i) {
        if (i) plain(style.comma);
        line_break(depth + 1);
        append_json(out, value.items()[i], style, depth + 1);
      }
      if (!value.items().empty()) line_break(depth);
      return plain("]");
    }
    case Kind::mapping: {
      Items items = value.pairs();
      if (style.sort_keys) std::stable_sort(items.begin(), items.end(), [](const auto& a, const auto& b) { return compare(a.first, b.first) < 0; });
      plain("{");
      for (size_t i = 0; i < items.size(); ++i) {
        if (i) plain(style.comma);
        line_break(depth + 1);
        append_json_string(out, to_text(items[i].first), style.ensure_ascii);
        plain(style.colon);
        append_json(out, items[i].second, style, depth + 1);
      }
      if (!items.empty()) line_break(depth);
      return plain("}");
    }
    default: fail_render(fmt::format("tojson: a {} is not JSON", value.type_name()));
  }
}
}  // namespace nibble::jinja
