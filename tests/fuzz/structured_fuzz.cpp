// rooms: text
// Any schema, in either spelling, strict or not, and any regular expression: a grammar, or an Error; never anything else.
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "base/utf8.h"
#include "text/regex_grammar.h"
#include "text/schema_grammar.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string text(reinterpret_cast<const char*>(data) + 1, size - 1);
  const int mode = data[0] % 8;
  try {
    if (mode >= 6) {
      if (nibble::is_valid_utf8(text)) nibble::regex_to_ebnf(text, {.spelling = nibble::Spelling::json, .search = mode == 6});
      return 0;
    }
    const auto schema = nlohmann::ordered_json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (!schema.is_object() && !schema.is_boolean()) return 0;
    nibble::SchemaOptions options;
    options.strict = mode % 2 == 0;
    options.spelling = mode >= 4 ? nibble::Spelling::native : nibble::Spelling::json;
    options.closed = mode >= 4;
    options.quote = "Token(52)";
    nibble::EbnfRules rules("r");
    std::vector<std::string> left_out;
    mode >= 4 ? nibble::call_members_to_ebnf(schema, options, rules, left_out) : nibble::schema_to_ebnf(schema, options, rules, left_out);
  } catch (const nibble::Error&) {
  }
  return 0;
}
