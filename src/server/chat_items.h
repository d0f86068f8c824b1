// The parts of a reply in the order in which they came, for wire formats that list them so: /v1/responses and /v1/messages.
#pragma once

#include <string>
#include <vector>

#include "server/chat_reply.h"

namespace nibble {
struct ReplyItem {
  enum class Kind { reasoning, text, call } kind;
  std::string id;              // the wire's, drawn when the item begins
  std::string name, call_id;   // of a call
  std::string text;            // of a call: its arguments, JSON text
};

// A writer of a reply of one choice. Calls opened, grew and closed for streams only; items() is kept in either case.
class ItemWriter : public ChatWriter {
 public:
  void step(ChatReply& reply, int32_t index, const std::vector<OutputDelta>& deltas) override;

 protected:
  virtual ReplyItem make_item(ReplyItem::Kind kind) const = 0;  // with its ids
  virtual void first_token(ChatReply&) {}                       // of a stream
  virtual void opened(ChatReply& reply, const ReplyItem& item, size_t index) = 0;
  virtual void grew(ChatReply& reply, const ReplyItem& item, size_t index, const std::string& text) = 0;
  virtual void closed(ChatReply& reply, const ReplyItem& item, size_t index, bool is_cut) = 0;
  const std::vector<ReplyItem>& items() const { return items_; }

 private:
  void close(ChatReply& reply, bool is_cut);

  std::vector<ReplyItem> items_;
  int call_ = -1;  // the parser's index of the open call
  bool open_ = false, begun_ = false;
};
}  // namespace nibble
