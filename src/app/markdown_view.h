// Markdown on its way to a terminal: the marks become colours and weights while the text streams in.
//
// Light means: headings, lists, quotes, fences, `code`, **strong** and *emphasis*. Tables, links and everything else stay as they were written, and so does a mark
// whose partner is not on its line: what is not sure is held back, one line at most. Without styles text passes unchanged.
#pragma once

#include <string>
#include <string_view>

namespace nibble {
class MarkdownView {
 public:
  explicit MarkdownView(bool styles) : styles_(styles) {}

  // What can be shown of the text so far, beyond what was returned before.
  std::string push(std::string_view text);
  // The rest; the next push begins a new text.
  std::string finish();

 private:
  bool begin_line(bool complete, std::string& out);
  void end_line(std::string& out);

  bool styles_;
  std::string line_;          // of the current line, what was not shown yet
  char before_ = '\n';        // the character shown last
  bool at_start_ = true;      // of a line
  bool heading_ = false, fence_line_ = false, fenced_ = false;
  std::string fence_;         // what opened the code, "```" or longer
};
}  // namespace nibble
