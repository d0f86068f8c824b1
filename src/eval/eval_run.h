// Asks the items of a task, marks the replies, and keeps every finished sample at once, so that an interrupted run can be read and resumed.
#pragma once

#include <filesystem>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "eval/statistics.h"
#include "eval/task.h"
#include "eval/transport.h"

namespace nibble {
struct EvalSample {
  std::string id, problem, expected, generation;
  std::optional<std::string> reasoning, predicted;
  bool correct = false;
  double mark = 0;
  std::string reason, tool_calls;       // tool_calls: JSON list, "" for none
  std::string finish_reason;            // "error": the request failed for good
  int64_t prompt_tokens = 0, generated_tokens = 0, reasoning_tokens = 0;
  double started = 0, ended = 0;        // seconds since the epoch
};
nlohmann::ordered_json sample_json(const EvalSample& sample);
EvalSample sample_from_json(const nlohmann::ordered_json& json);  // raises corrupt
// A predictions file; a last line that a crash cut off is dropped.
std::vector<EvalSample> read_samples(const std::filesystem::path& file);

struct EvalPlan {
  int concurrency = 64;
  int n_repeats = 1;
  std::string model;                    // "": the field is left out
  double temperature = 0, top_p = 0.95, min_p = 0, repetition_penalty = 1;
  std::optional<int64_t> max_tokens, seed;  // repeat k > 0 sends seed + k
  int max_tries = 6;
  double first_wait_seconds = 1;        // doubles with every try
};

// The request of one item, exactly as it is sent.
std::string eval_request(const EvalTask& task, const EvalItem& item, const EvalPlan& plan, int repeat);

struct EvalProgress {
  size_t done = 0, planned = 0;
  double score = 0, error = 0;          // over what is done
};
struct EvalResult {
  std::vector<std::vector<EvalSample>> repeats;  // [k]: in the task's order
  bool partial = false;
  double seconds = 0;                   // of this run, without what was resumed
};

// Samples go to folder/output-rs<k>.jsonl as they finish; what is there already is not asked again.
EvalResult run_eval(Transport& transport, const EvalTask& task, const EvalPlan& plan, const std::filesystem::path& folder, const std::function<void(const EvalProgress&)>& on_progress,
                    const std::function<bool()>& stopped);

// {"aggregate", "latency_seconds", ...}: of samples alone.
nlohmann::ordered_json eval_metrics_json(const EvalTask& task, const EvalPlan& plan, const EvalResult& result);
std::vector<std::string> eval_warnings(const nlohmann::ordered_json& metrics, const EvalPlan& plan);

// By id, over the rows that both have; raises invalid_argument when the sets of ids differ.
Paired compare_samples(const std::vector<EvalSample>& baseline, const std::vector<EvalSample>& candidate);
nlohmann::ordered_json paired_json(const Paired& paired);
}  // namespace nibble
