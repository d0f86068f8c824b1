// `nibble bench serving`: a load test over HTTP, or of the same routes in this process.
#pragma once

#include <string>

#include "app/model_loader.h"

namespace nibble {
struct BenchServingFlags {
  std::string base_url = "http://127.0.0.1:30000";
  ModelFlags model;                    // in process, when in_process
  bool in_process = false;
  std::string api_key = "EMPTY", model_name;
  std::string prompts;                 // JSONL in the public format
  std::string workload;                // random, words; empty: our own prompts
  int64_t input_len = 128;             // of random and words
  std::string random_ids = "300:2600"; // range of random token ids
  int64_t num_prompts = 0;             // 0: the whole file; 4 per request in flight when made
  std::string concurrency = "1,2,4,8,16,32,64,128";
  double rate = 0;                     // > 0: open loop
  int64_t max_tokens = 512, output_len = 0;  // output_len > 0: exactly so many, ignore_eos
  uint64_t seed = 42;
  int64_t warmup = -1;                 // -1: max(concurrency, 8)
  int repeats = 1;
  bool multi_turn = false, no_shared_prefix = false, chunk_usage = false, json = false;
  std::string slo;                     // "ttft=500,itl=50" in ms
  std::string extra;                   // JSON merged into every request
  std::string tokenizer_path;          // to count input tokens without the template, and output tokens when the server does not
  std::string out = "./results", name;
  std::string command_line;            // for the report
};
int run_bench_serving(const BenchServingFlags& flags);
}  // namespace nibble
