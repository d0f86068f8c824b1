// `nibble bench offline`: the engine alone, in this process. Prefill and decode timed apart at a given batch and context; with an assistant, decode also without
// it, and with forced acceptances.
#pragma once

#include <string>
#include <vector>

#include "app/model_loader.h"

namespace nibble {
struct BenchOfflineFlags {
  ModelFlags model;
  std::string batch = "1,8,32";     // sequences at once
  std::string input_len = "128";    // tokens of context before decoding
  int64_t output_len = 64;          // tokens decoded
  int chunked_prefill = 512;        // rows of prefill in a step at most
  int repeats = 3;
  uint64_t seed = 42;
  std::vector<double> forced;       // SYNTHETIC: tokens a round, whatever is right; one run each
  bool json = false;
  std::string out, name, command_line;
};
int run_bench_offline(const BenchOfflineFlags& flags);
}  // namespace nibble
