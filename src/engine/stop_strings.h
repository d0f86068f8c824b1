// Stop strings in a stream of text: the text before the first match is passed on, and text that may be the beginning of a match waits.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace nibble {
class StopStrings {
 public:
  StopStrings(std::vector<std::string> stops, bool keep_match);  // empty strings are ignored

  // Appends what is certain to `out`; true when a stop string is complete, after which nothing more comes out.
  bool push(std::string_view text, std::string& out);
  void flush(std::string& out);  // no more text: what waited was no match
  const std::string& matched() const { return matched_; }

 private:
  std::vector<std::string> stops_;
  bool keep_match_;
  std::string held_, matched_;
};
}  // namespace nibble
