// Text from a stream of ids, as soon as it is certain: never a part of a character, and the deltas add up to what a server's whole answer says.
#pragma once

#include <cstdint>
#include <string>

#include "text/tokenizer.h"

namespace nibble {
class Detokenizer {
 public:
  Detokenizer(const Tokenizer& tokenizer, bool skip_special) : tokenizer_(&tokenizer), skip_special_(skip_special) {}

  // The text that this id completes; may be empty (part of a character, a skipped special token, an id outside the vocabulary).
  std::string push(int32_t id);
  // What is left when the stream ends: pending bytes as one U+FFFD each.
  std::string finish();

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_;
  std::string pending_;  // bytes of an unfinished character, at most 3
};
}  // namespace nibble
