// `nibble eval`: accuracy of a server, or of a model in this process.
#pragma once

#include <optional>
#include <string>

#include "app/model_loader.h"

namespace nibble {
struct EvalFlags {
  std::string name;                    // gsm8k, or empty with a task file
  std::string data, task, regrade, resume, baseline;
  std::string base_url = "http://127.0.0.1:30000";
  ModelFlags model;
  bool in_process = false;
  std::string api_key = "EMPTY", model_name;
  int64_t num_examples = 0;
  int concurrency = 64, n_repeats = 0;  // 0: what the task says
  std::optional<int64_t> max_tokens, seed;
  double temperature = 0, top_p = 0.95, min_p = 0, repetition_penalty = 1;
  std::string out = "./results", run_name;
  bool json = false;
  std::string command_line;
};
int run_eval_command(const EvalFlags& flags);
}  // namespace nibble
