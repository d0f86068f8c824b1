// `nibble bench ops`: the linear and attention kernels against this machine's own roof, measured in the same run.
#pragma once

#include <string>

namespace nibble {
struct BenchOpsFlags {
  std::string device = "cpu";  // cpu or cuda
  int threads = 0;        // 0: one per core
  std::string ops = "all";     // linear, attention (on a GPU) or all
  std::string out;        // folder for the JSON; empty: none
  double seconds = 0.5;   // per measurement
};
int run_bench_ops(const BenchOpsFlags& flags);
}  // namespace nibble
