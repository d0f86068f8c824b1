// `nibble bench verify-spec`: the same prompts with and without speculation, greedy. Compares every token and the bits of its logprob, and the time.
#pragma once

#include <string>
#include <vector>

#include "app/model_loader.h"

namespace nibble {
struct BenchVerifyFlags {
  ModelFlags model;
  std::string prompts;              // empty: the own ones
  int num_prompts = 200;
  std::vector<int> concurrency{1, 32};
  int32_t max_tokens = 96;
  double forced = 0;                // SYNTHETIC acceptance length; 0: none
  bool json = false;
};
// 0 when all replies agree, 1 otherwise.
int run_bench_verify(const BenchVerifyFlags& flags);
}  // namespace nibble
