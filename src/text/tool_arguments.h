// The inside of call:NAME{...} to JSON text, character by character: what is emitted is certain and never taken back.
//
//   members := [ member { "," member } [ "," ] ]        white space and extra commas are skipped between items
//   member  := key ":" value
//   key     := bare text up to ":"  |  <|"|>text<|"|>  |  "JSON string"
//   value   := <|"|>raw text<|"|>  |  "JSON string"  |  "{" members "}"  |  "[" values "]"  |  bare word up to "," "}" "]"
//   bare    := true false null none nil (any case), a JSON number (kept as written; +5 .5 5. are put right), else a string
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace nibble {
class ToolArguments {
 public:
  ToolArguments() { begin(); }
  void character(std::string_view utf8);  // one character
  void quote();                           // the string delimiter
  void close();                           // the call ends: open strings, then brackets, are closed
  bool done() const { return stack_.empty(); }
  std::string take() { return std::exchange(out_, {}); }  // JSON text since the last call

 private:
  enum class State { key, key_bare, key_quoted, key_json, after_key, value, element, raw_string, json_string, bare };
  struct Level {
    bool object;
    int members = 0;
  };
  static constexpr size_t kMaxDepth = 64;

  void begin();
  void begin_value();
  void put_value(std::string_view json);
  void next();
  void push(bool object);
  void pop();
  void start_value(std::string_view c);
  void end_json_string();

  std::string out_, buffer_, key_;
  std::vector<Level> stack_;
  State state_ = State::key;
};

std::string json_quote(std::string_view text);
}  // namespace nibble
