#include "engine/reply.h"

namespace nibble {
Reply::Reply(const Tokenizer& tokenizer, const OutputMarkers& markers, const ReplyOptions& options)
    : markers_(markers), parse_(options.parse), detokenizer_(tokenizer, options.skip_special_tokens), stops_(options.stop, options.keep_stop), parser_(options.parser) {}

void Reply::pass(const std::string& text, std::vector<OutputDelta>& out) {
  if (text.empty()) return;
  if (parse_) {
    parser_.push_plain(text, out);
  } else if (!out.empty()) {
    out.back().text += text;
  } else {
    out.push_back({OutputDelta::Kind::content, -1, text});
  }
}

bool Reply::push(int32_t id, std::vector<OutputDelta>& out) {
  std::string certain;
  if (const auto marker = parse_ ? markers_.find(id) : std::nullopt) {
    // A control token cannot be part of a stop string.
    const bool stopped = stops_.push(detokenizer_.finish(), certain);
    if (!stopped) stops_.flush(certain);
    pass(certain, out);
    if (stopped) return true;
    const bool was_reasoning = parser_.in_reasoning();
    parser_.push_marker(*marker, out);
    reasoning_tokens_ += was_reasoning || parser_.in_reasoning();
    return false;
  }
  reasoning_tokens_ += parse_ && parser_.in_reasoning();
  const bool stopped = stops_.push(detokenizer_.push(id), certain);
  pass(certain, out);
  return stopped;
}

void Reply::finish(std::vector<OutputDelta>& out) {
  std::string certain;
  if (!stops_.push(detokenizer_.finish(), certain)) stops_.flush(certain);
  pass(certain, out);
  if (parse_) parser_.finish(out);
}
}  // namespace nibble
