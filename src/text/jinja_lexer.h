// A template cut into text, {{ }} and {% %} pieces, with whitespace control already applied, and the pieces into tokens.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace nibble::jinja {
enum class TokenKind : uint8_t { text, begin_output, end_output, begin_block, end_block, name, string, integer, floating, symbol, end };

struct Token {
  TokenKind kind;
  std::string text;  // text, name, symbol; a string literal's value; a number's digits
  int line;
};

// Raises SyntaxError.
std::vector<Token> tokenize(std::string_view source);
}  // namespace nibble::jinja
