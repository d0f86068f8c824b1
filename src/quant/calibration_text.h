// The text of a calibration: files of samples, mixed evenly, as token ids.
//
// A file is JSON lines (its first character that is not a space is `{`), one sample a line: "text" or "article" (a string), "messages" (an OpenAI conversation,
// rendered through the chat template) or "ids" (token ids, taken as they are); or plain text of any kind, cut into samples of max_tokens. Empty samples are dropped.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace nibble {
struct CalibrationTextOptions {
  std::vector<std::filesystem::path> files;
  std::vector<int64_t> counts;       // one number: samples in all, one from each file in turn (a file that ends leaves its share to the others); else one a file
  int64_t max_tokens = 512;          // of a sample; longer ones are cut
  bool bos = true;                   // every sample begins with bos_token_id; false: none does. Samples given as ids stay as they are
  int32_t bos_token_id = 2;
  int32_t vocab_size = 0;
};

struct CalibrationText {
  std::vector<std::vector<int32_t>> samples;
  std::vector<int64_t> from_file;  // how many came from each
};

// tokenizer, chat_template: only asked for where there is text, and messages; may be null. Raises not_found, corrupt (file:line: what is wrong), invalid_argument (no sample at all, or as many counts as
// there are no files).
CalibrationText read_calibration_text(const CalibrationTextOptions& options, const Tokenizer* tokenizer, const ChatTemplate* chat_template);

// The set that ships with the program: $NIBBLE_CALIBRATION, share/nibble/calibration.jsonl beside the executable's bin/, or models/calibration.jsonl of the source tree.
std::filesystem::path own_calibration_text();
}  // namespace nibble
