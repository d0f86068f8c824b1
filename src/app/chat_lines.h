// What a person types into a conversation: lines with editing and history on a terminal, plain lines from a pipe.
#pragma once

#include <string>

struct editline;
struct history;

namespace nibble {
class ChatLines {
 public:
  enum class Kind { line, stopped, end };  // stopped: Ctrl-C, what was typed is dropped; end: Ctrl-D, end of the pipe

  ChatLines();
  ~ChatLines();
  ChatLines(const ChatLines&) = delete;
  ChatLines& operator=(const ChatLines&) = delete;

  // A line that ends in a backslash goes on with the next one.
  Kind next(std::string& line);
  bool terminal() const { return terminal_; }

 private:
  Kind next_physical(std::string& line);

  bool terminal_;
  editline* editor_ = nullptr;
  struct history* history_ = nullptr;
};
}  // namespace nibble
