// One choice's tokens on their way to the client: ids to text, stop strings, then content, reasoning and tool calls.
#pragma once

#include <string>
#include <vector>

#include "engine/stop_strings.h"
#include "text/detokenizer.h"
#include "text/output_parser.h"

namespace nibble {
struct ReplyOptions {
  bool skip_special_tokens = true;
  std::vector<std::string> stop;
  bool keep_stop = false;          // no_stop_trim
  bool parse = true;               // false: all text is content, as in /v1/completions
  OutputParser::Options parser;
};

class Reply {
 public:
  Reply(const Tokenizer& tokenizer, const OutputMarkers& markers, const ReplyOptions& options);

  // The deltas that this token makes certain. True: a stop string is complete and the reply ends here.
  bool push(int32_t id, std::vector<OutputDelta>& out);
  void finish(std::vector<OutputDelta>& out);

  const std::string& matched_stop() const { return stops_.matched(); }
  const OutputParser& parser() const { return parser_; }
  int32_t reasoning_tokens() const { return reasoning_tokens_; }

 private:
  void pass(const std::string& text, std::vector<OutputDelta>& out);

  const OutputMarkers& markers_;
  bool parse_;
  Detokenizer detokenizer_;
  StopStrings stops_;
  OutputParser parser_;
  int32_t reasoning_tokens_ = 0;
};
}  // namespace nibble
