// What a checkpoint says about its quantization: `quantization_config` in config.json (flat or nested) or `hf_quant_config.json` (nested or flat).
//
// The tensors decide how a linear is stored; this only checks, chooses the KV cache's dtype, and refuses what cannot be computed.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace nibble {
enum class QuantAlgo { none, nvfp4, fp8_block };

struct QuantConfig {
  QuantAlgo algo = QuantAlgo::none;
  std::string algo_name;              // as the file spells it
  bool kv_cache_fp8 = false;          // --kv-cache-dtype auto means fp8_e4m3
  std::vector<std::string> excluded;  // glob patterns of module names
  std::string source;                 // file that said it
};

std::string_view name_of(QuantAlgo algo);  // "BF16", "NVFP4", "FP8 128x128"

// Either text may be empty. Raises corrupt when both name an algorithm and they differ, unsupported for algorithms we do not compute.
QuantConfig parse_quant_config(std::string_view config_json, std::string_view hf_quant_config_json, std::string_view folder);

// Whether the module (dotted name, without `.weight`) is matched by an exclusion pattern: `*` is any run of characters; a pattern is tried on the
// whole name, without a leading `model.`, without `language_model.`, on each component alone, and in both layouts of the vision names.
bool is_excluded(std::string_view module, const std::vector<std::string>& patterns);

// Checks --quantization against the file; empty: no flag. Raises invalid_argument naming both.
void check_quantization_flag(std::string_view flag, const QuantConfig& config);
}  // namespace nibble
