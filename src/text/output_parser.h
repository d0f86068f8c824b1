// What a Gemma 4 model writes, taken apart: content, reasoning, tool calls. Incremental: every delta is certain when it is given and none is taken back, so the
// streamed and the whole message agree, however the text was cut.
//
// Two front ends feed one machine. Tokens (production): control tokens are known by id, and text that spells one is text. Text (tests, /parse_function_call): the
// marker spelled out is the marker, and a tail that may become one is held back.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/tokenizer.h"
#include "text/tool_arguments.h"

namespace nibble {
enum class OutputMarker { channel_open, channel_close, call_open, call_close, quote, turn_end, response_open, eos };

// The text of a marker, "<|channel>".
std::string_view text_of(OutputMarker marker);

// The ids of the markers in a vocabulary; those it lacks are absent.
class OutputMarkers {
 public:
  explicit OutputMarkers(const Tokenizer& tokenizer);
  std::optional<OutputMarker> find(int32_t id) const;

 private:
  std::unordered_map<int32_t, OutputMarker> by_id_;
};

struct OutputDelta {
  enum class Kind { content, reasoning, call_begin, call_arguments } kind;
  int call = -1;       // index of the call, in order of calls
  std::string text;    // text to append; the function's name for call_begin
};

struct ParsedCall {
  std::string name, arguments;  // JSON text; cut off when not complete
  bool complete = false;
};

class OutputParser {
 public:
  struct Options {
    bool reasoning = true;          // separate thoughts from content
    bool tools = true;              // recognize tool calls
    bool starts_thinking = false;   // the prompt left a thought open
  };
  explicit OutputParser(Options options);

  void push_text(std::string_view utf8, std::vector<OutputDelta>& out);          // text front end; may be cut anywhere, inside characters too
  void push_plain(std::string_view utf8, std::vector<OutputDelta>& out);         // token front end: whole characters, nothing in it is a marker
  void push_marker(OutputMarker marker, std::vector<OutputDelta>& out);
  void finish(std::vector<OutputDelta>& out);

  const std::vector<ParsedCall>& calls() const { return calls_; }
  bool in_reasoning() const { return state_ == State::reason || state_ == State::label; }
  bool any_complete_call() const;
  bool any_incomplete_call() const;

 private:
  enum class State { content, label, reason, head, args, tail };

  void characters(std::string_view utf8);
  void character(std::string_view c);
  void marker(OutputMarker m);
  void marker_in_head(OutputMarker m);
  void marker_in_args(OutputMarker m);
  void add_content(std::string_view text);
  void add_reasoning(std::string_view text);
  void emit(OutputDelta::Kind kind, int call, std::string_view text);
  void drain_arguments();
  void try_head();
  void not_a_call();
  void start_call(std::string name);
  void end_arguments();

  Options options_;
  State state_;
  std::string held_;           // text front end: may still become a marker or a character
  std::string label_, head_, spaces_;
  bool bad_block_ = false;     // a <|tool_call> that was no call: its closing marker is text as well
  std::vector<ParsedCall> calls_;
  ToolArguments arguments_;
  std::vector<OutputDelta>* out_ = nullptr;
};
}  // namespace nibble
