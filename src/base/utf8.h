// UTF-8 as the web reads it: every ill-formed sequence becomes one U+FFFD per maximal subpart.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace nibble {
struct Utf8Step {
  uint32_t code_point;  // U+FFFD when ill-formed
  uint32_t length;      // bytes consumed, >= 1 (the maximal subpart when ill-formed)
  bool valid;
};
// Decodes at text[at]; at < text.size().
Utf8Step decode_utf8(std::string_view text, size_t at);

bool is_valid_utf8(std::string_view text);
std::string replace_invalid_utf8(std::string_view text);
void append_utf8(std::string& out, uint32_t code_point);

// Bytes at the end of `text` that begin a character but do not finish it (0..3): hold them back while streaming.
size_t incomplete_utf8_tail(std::string_view text);
}  // namespace nibble
