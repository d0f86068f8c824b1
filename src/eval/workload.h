// What a load test asks: prompts from a file in the public format, or made from a seed.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace nibble {
struct WorkloadPrompt {
  std::string id, category;
  std::vector<std::string> turns;   // user messages, in order; empty: `ids` is the prompt
  std::string system;               // before the first turn; empty: none
  std::vector<int32_t> ids;         // a raw prompt for /v1/completions
};

struct Workload {
  std::string name, file, sha256;   // sha256 of the file; of the parameters when made
  bool synthetic = false;           // random tokens: acceptance of drafts means nothing
  std::vector<WorkloadPrompt> prompts;
  std::vector<std::string> categories() const;  // in order of appearance
};

// JSONL of {question_id, category, messages}. Raises corrupt with file and line: an id that is not 32 characters, an empty field, a repeated id, a placeholder
// where a prompt should be.
Workload load_workload(const std::filesystem::path& file);

// The project's own 880 prompts: NIBBLE_PROMPTS, else beside the program, else in the source tree.
std::filesystem::path own_workload();

// `count` prompts of exactly `input_tokens` random ids in [low, high).
Workload random_workload(int64_t count, int64_t input_tokens, int32_t low, int32_t high, uint64_t seed);
// `count` chat prompts of `words` common English words.
Workload words_workload(int64_t count, int64_t words, uint64_t seed);

// Fisher-Yates with Philox 4x32-10: i from the last to the second, j = floor(u (i + 1)).
void shuffle_workload(Workload& workload, uint64_t seed);

std::string sha256_hex(std::string_view bytes);
}  // namespace nibble
