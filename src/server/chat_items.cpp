#include "server/chat_items.h"

namespace nibble {
void ItemWriter::step(ChatReply& reply, int32_t index, const std::vector<OutputDelta>& deltas) {
  const bool stream = reply.fields().stream;
  if (!std::exchange(begun_, true) && stream) first_token(reply);
  for (const OutputDelta& d : deltas) {
    const bool is_call = d.kind == OutputDelta::Kind::call_begin || d.kind == OutputDelta::Kind::call_arguments;
    const auto kind = is_call ? ReplyItem::Kind::call : d.kind == OutputDelta::Kind::reasoning ? ReplyItem::Kind::reasoning : ReplyItem::Kind::text;
    if (d.kind != OutputDelta::Kind::call_begin && d.text.empty()) continue;
    if (open_ && (d.kind == OutputDelta::Kind::call_begin || items_.back().kind != kind || (is_call && d.call != call_))) close(reply, false);
    if (!open_) {
      items_.push_back(make_item(kind));
      if (is_call) {
        call_ = d.call;
        items_.back().name = d.text;
      }
      open_ = true;
      if (stream) opened(reply, items_.back(), items_.size() - 1);
      if (is_call) continue;
    }
    items_.back().text += d.text;
    if (stream) grew(reply, items_.back(), items_.size() - 1, d.text);
  }
  const ChatChoice& c = *reply.choices()[static_cast<size_t>(index)];
  if (c.done) close(reply, c.finish == "length" || c.finish == "abort");
}

void ItemWriter::close(ChatReply& reply, bool is_cut) {
  if (std::exchange(open_, false) && reply.fields().stream) closed(reply, items_.back(), items_.size() - 1, is_cut);
}
}  // namespace nibble
