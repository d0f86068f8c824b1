#include "text/detokenizer.h"

#include "base/utf8.h"

namespace nibble {
std::string Detokenizer::push(int32_t id) {
  if (!tokenizer_->contains(id)) return {};
  if (skip_special_ && tokenizer_->is_special(id)) return {};
  if (const auto byte = tokenizer_->byte_of(id)) {
    pending_ += static_cast<char>(*byte);
    std::string out;
    while (!pending_.empty()) {
      if (incomplete_utf8_tail(pending_) == pending_.size()) break;
      const Utf8Step step = decode_utf8(pending_, 0);
      // One replacement per byte that cannot belong to a character, also when several begin one.
      const size_t length = step.valid ? step.length : 1;
      step.valid ? out.append(pending_, 0, length) : out.append("\xEF\xBF\xBD");
      pending_.erase(0, length);
    }
    return out;
  }
  return finish() + tokenizer_->token_bytes(id);
}

std::string Detokenizer::finish() {
  std::string out;
  for (size_t i = 0; i < pending_.size(); ++i) out += "\xEF\xBF\xBD";
  pending_.clear();
  return out;
}
}  // namespace nibble
