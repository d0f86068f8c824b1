// A BF16 checkpoint of any shape without a model: config.json's tensors, filled with normal random numbers of a trained model's size. To time and test what works on
// whole checkpoints; as a model it is noise.
#pragma once

#include <cstdint>
#include <filesystem>

namespace nibble {
struct SyntheticOptions {
  std::filesystem::path source;  // a folder with config.json; its other small files are copied
  std::filesystem::path target;  // new
  int64_t max_shard_bytes = 10'000'000'000;
  uint64_t seed = 1;
  int threads = 0;
};
// Bytes of tensor data. No value is zero. The same seed gives the same bytes on any number of threads. Raises invalid_argument when the target exists, out_of_memory when
// the disk is too small.
int64_t write_synthetic_checkpoint(const SyntheticOptions& options);
}  // namespace nibble
