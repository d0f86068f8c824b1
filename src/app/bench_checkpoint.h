// `nibble bench checkpoint`: a BF16 checkpoint of a config's shape with random weights, to time quantize and loading with.
#pragma once

#include <string>

namespace nibble {
struct BenchCheckpointFlags {
  std::string config, out, max_shard_size = "10GB";
  uint64_t seed = 1;
  int threads = 0;
};
int run_bench_checkpoint(const BenchCheckpointFlags& flags);
}  // namespace nibble
