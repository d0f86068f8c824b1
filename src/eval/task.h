// What an evaluation asks and how it is marked: GSM8K, or a JSONL file of one's own.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace nibble {
// JSON values are kept as text: this header is included by many.
struct EvalItem {
  std::string id;
  std::string problem;                 // what predictions show: the question, or the last user message
  std::string messages;                // JSON list
  std::string prompt;                  // plain text, for the scorers that read log-probabilities
  std::string expected;                // JSON: a scalar or a list of accepted answers; "" for none
  std::string choices, tools, tool_choice, schema, request;  // JSON, "" for none
  std::string scorer = "boxed_number";
  std::string scorer_args;             // JSON object, "" for none
  std::vector<std::string> tags;
  double weight = 1;
  std::string expected_text() const;   // as predictions show it
};

struct EvalTask {
  std::string name, version, license;
  std::string file, sha256;
  bool official = false;               // the public test split of GSM8K, by its hash
  bool partial_set = false;            // fewer rows than the file has
  int n_repeats = 1;
  std::string request;                 // JSON object merged into every request, "" for none
  std::vector<EvalItem> items;
};

// test.jsonl of grade-school-math, or rows of {problem, expected_answer, id?}. num_examples 0: all. Raises corrupt with file and line.
EvalTask load_gsm8k(const std::filesystem::path& file, int64_t num_examples);
// The gold number of an official row's answer: behind the single ####, without commas.
std::string gsm8k_gold(std::string_view answer);
std::string gsm8k_prompt(std::string_view question);

// A file of items with an optional header line; docs/formats/tasks.md. Unknown keys are errors that name file and line.
EvalTask load_task(const std::filesystem::path& file, int64_t num_examples);

// ---- marks ----

struct EvalReply {
  std::string content;
  std::string reasoning;
  std::string tool_calls;              // JSON list of {name, arguments}, "" for none
  std::vector<double> logprobs;        // summed, one per candidate (logprob_choice, loglikelihood)
  std::vector<int64_t> logprob_tokens; // tokens behind each sum
};
struct Mark {
  double mark = 0;
  std::optional<std::string> answer;   // what was extracted
  std::string reason;
};
Mark mark_reply(const EvalItem& item, const EvalReply& reply);
bool known_scorer(std::string_view name);
bool needs_logprobs(std::string_view scorer);
}  // namespace nibble
