// rooms: text
// Any text as a tokenizer.json: read, or refused with an Error. What was read encodes any text to ids of its vocabulary, the same from marked text, and decodes to
// valid UTF-8, the same in a stream as at once.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/utf8.h"
#include "text/detokenizer.h"
#include "text/tokenizer.h"

namespace {
void require(bool holds) {
  if (!holds) std::abort();
}

void exercise(const nibble::Tokenizer& tokenizer, std::string_view text) {
  const std::vector<int32_t> ids = tokenizer.encode(text);
  for (const int32_t id : ids) {
    require(tokenizer.contains(id));
    const auto found = tokenizer.id_of(tokenizer.token_string(id));
    require(found.has_value());
  }
  const std::vector<int32_t> plain = tokenizer.encode(text, /*parse_special=*/false);
  require(tokenizer.encode_marked(text, {}) == plain);
  if (nibble::is_valid_utf8(text)) {
    const nibble::TextSpan whole{0, text.size()};
    require(tokenizer.encode_marked(text, {&whole, 1}) == ids);
  }
  const std::string decoded = tokenizer.decode(ids, /*skip_special=*/false);
  require(nibble::is_valid_utf8(decoded));
  nibble::Detokenizer stream(tokenizer, /*skip_special=*/false);
  std::string streamed;
  for (const int32_t id : ids) {
    const std::string piece = stream.push(id);
    require(nibble::is_valid_utf8(piece));
    streamed += piece;
  }
  streamed += stream.finish();
  require(nibble::is_valid_utf8(streamed));
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view json(reinterpret_cast<const char*>(data), size);
  try {
    const nibble::Tokenizer tokenizer = nibble::Tokenizer::from_json(json, "tokenizer.json");
    exercise(tokenizer, "ab  abc\n<s> \xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80 \xe2\x96\x81 aaaa \xff<0x41>");
    exercise(tokenizer, json.substr(0, 2000));
    for (const int32_t id : tokenizer.special_ids()) require(tokenizer.contains(id) && tokenizer.is_special(id));
  } catch (const nibble::Error& error) {
    require(!error.message.empty());
  }
  return 0;
}
