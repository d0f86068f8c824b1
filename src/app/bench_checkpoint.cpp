#include "app/bench_checkpoint.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "app/quantize_command.h"
#include "base/clock.h"
#include "quant/synthetic.h"

namespace nibble {
int run_bench_checkpoint(const BenchCheckpointFlags& flags) {
  const double began = monotonic_seconds();
  const int64_t bytes = write_synthetic_checkpoint({.source = flags.config, .target = flags.out, .max_shard_bytes = parse_shard_size(flags.max_shard_size), .seed = flags.seed, .threads = flags.threads});
  const double seconds = monotonic_seconds() - began;
  fmt::print("{}\n", nlohmann::ordered_json{{"folder", flags.out}, {"bytes", bytes}, {"seconds", seconds}, {"gb_per_second", static_cast<double>(bytes) / 1e9 / seconds}}.dump());
  return 0;
}
}  // namespace nibble
