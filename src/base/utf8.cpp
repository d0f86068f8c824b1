#include "base/utf8.h"

namespace nibble {
Utf8Step decode_utf8(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) -> uint32_t { return i < text.size() ? static_cast<uint8_t>(text[i]) : 0u; };
  const uint32_t b0 = byte(at);
  if (b0 < 0x80) return {b0, 1, true};
  // Length, and the range of the second byte, which excludes overlong forms, surrogates and values past U+10FFFF.
  uint32_t length = 0, low = 0x80, high = 0xbf;
  if (b0 >= 0xc2 && b0 <= 0xdf) {
    length = 2;
  } else if (b0 >= 0xe0 && b0 <= 0xef) {
    length = 3;
    if (b0 == 0xe0) low = 0xa0;
    if (b0 == 0xed) high = 0x9f;
  } else if (b0 >= 0xf0 && b0 <= 0xf4) {
    length = 4;
    if (b0 == 0xf0) low = 0x90;
    if (b0 == 0xf4) high = 0x8f;
  } else {
    return {0xfffd, 1, false};
  }
  uint32_t code_point = b0 & (0x7fu >> length);
  for (uint32_t i = 1; i < length; ++i) {
    const uint32_t b = byte(at + i);
    if (b < low || b > high) return {0xfffd, i, false};
    code_point = (code_point << 6) | (b & 0x3f);
    low = 0x80;
    high = 0xbf;
  }
  return {code_point, length, true};
}

bool is_valid_utf8(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = decode_utf8(text, at);
    if (!step.valid) return false;
    at += step.length;
  }
  return true;
}

std::string replace_invalid_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = decode_utf8(text, at);
    if (step.valid) {
      out.append(text, at, step.length);
    } else {
      append_utf8(out, 0xfffd);
    }
    at += step.length;
  }
  return out;
}

void append_utf8(std::string& out, uint32_t c) {
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += static_cast<char>(0xc0 | c >> 6);
    out += static_cast<char>(0x80 | (c & 0x3f));
  } else if (c < 0x10000) {
    out += static_cast<char>(0xe0 | c >> 12);
    out += static_cast<char>(0x80 | (c >> 6 & 0x3f));
    out += static_cast<char>(0x80 | (c & 0x3f));
  } else {
    out += static_cast<char>(0xf0 | c >> 18);
    out += static_cast<char>(0x80 | (c >> 12 & 0x3f));
    out += static_cast<char>(0x80 | (c >> 6 & 0x3f));
    out += static_cast<char>(0x80 | (c & 0x3f));
  }
}

size_t incomplete_utf8_tail(std::string_view text) {
  for (size_t back = 1; back <= 3 && back <= text.size(); ++back) {
    const uint8_t b = static_cast<uint8_t>(text[text.size() - back]);
    if (b < 0x80) return 0;
    if (b >= 0xc2 && b <= 0xf4) {
      const Utf8Step step = decode_utf8(text, text.size() - back);
      return !step.valid && step.length == back ? back : 0;
    }
    if (b >= 0xc0) return 0;
  }
  return 0;
}
}  // namespace nibble
