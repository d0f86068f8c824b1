// `nibble quantize`: a BF16 checkpoint to four or eight bits, with calibration, a report and a verdict.
#pragma once

#include <string>

namespace CLI {
class App;
}

namespace nibble {
struct QuantizeFlags {
  std::string model_path = "demo", export_path, qformat = "nvfp4_mlp_only", search = "mse", kv_cache = "fp8", tensor_names = "hub", max_shard_size = "10GB";
  std::string dataset, calib_size = "2048", calib_bos = "auto";  // dataset: files, separated by commas; empty: the set that ships with the program
  std::string amax;                          // of an earlier run, instead of a calibration
  int64_t calib_seq = 512, batch_size = 0;
  std::string report, prompts;               // report: where report.md and report.json also go
  std::string device = "auto";
  int64_t num_prompts = 32, sync_mb = 1024;
  int threads = 0;
  bool force = false, no_fidelity = false, trust_remote_code = false, json = false;
};
int64_t parse_shard_size(const std::string& text);  // "10GB", "2GiB", "500MB", plain bytes; raises invalid_argument
void add_quantize_command(CLI::App& app, QuantizeFlags& flags);
int run_quantize(const QuantizeFlags& flags);
}  // namespace nibble
