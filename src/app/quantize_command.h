// `nibble quantize`: a BF16 checkpoint to four or eight bits, with calibration, a report and a verdict.
#pragma once

#include <string>

namespace CLI {
class App;
}

namespace nibble {
struct QuantizeFlags {
  std::string model_path = "demo", export_path, qformat = "nvfp4_mlp_only", search = "mse", kv_cache = "fp8", tensor_names = "hub", max_shard_size = "10GB";
  std::string dataset, calib_bos = "on";     // files, separated by commas; empty: the set that ships with the program
  int64_t calib_size = 2048, calib_seq = 512, batch_size = 0;
  std::string report, prompts;               // report: where report.md and report.json also go
  int64_t num_prompts = 32;
  int threads = 0;
  bool force = false, no_fidelity = false, trust_remote_code = false, json = false;
};
void add_quantize_command(CLI::App& app, QuantizeFlags& flags);
int run_quantize(const QuantizeFlags& flags);
}  // namespace nibble
