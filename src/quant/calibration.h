// What a BF16 model's linear layers and KV cache see of a calibration text: forward passes with nothing quantized, whole prompts, no padding.
//
//   input_scale = X / 2688, X the largest |x| that entered the linear, BF16 as the kernels read it (gate and up have the same input)
//   k_scale, v_scale = largest |K|, |V| / 448, as they go into attention: after norm and RoPE
// Both divisions are multiplications by the reciprocal rounded to f32.
//
// A run writes what it has seen every few seconds and goes on from there; its result is a function of (weights, samples) alone, whatever the batches.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "formats/model_config.h"
#include "kernels/backend.h"
#include "model/weights.h"
#include "quant/observing_backend.h"
#include "quant/quantize.h"

namespace nibble {
struct CalibrationOptions {
  std::vector<std::vector<int32_t>> samples;  // token ids of each prompt, none longer than max_rows
  int32_t max_rows = 4096;                    // of one forward pass; more rows repack the weights less often
  int64_t keep_bytes = int64_t{2} << 30;      // of repacked weights on a host (the device keeps all)
  std::filesystem::path state;                // amax.json of a run under way; empty: none
  std::string fingerprint;                    // of weights and samples; a state of another one is not taken
  bool weights_are_mapped = false;            // every linear's data lies in the checkpoint's files
  std::function<bool(int64_t done, int64_t total)> progress;  // tokens; false: stop here, what is seen stays for the next run
};

struct Calibration {
  // By module: "model.language_model.layers.3.mlp.down_proj", and ".self_attn.k", ".self_attn.v".
  std::map<std::string, Amax> amax;
  int64_t num_samples = 0, num_tokens = 0, resumed_samples = 0;
  double seconds = 0;
};

// Raises cancelled, corrupt (an activation that is not finite), out_of_memory.
Calibration calibrate(const ModelConfig& config, const ModelWeights& weights, Backend& backend, const CalibrationOptions& options);

// amax.json: {"samples", "tokens", "fingerprint", "amax": {name: {"first", "rest"}}}. Reading raises corrupt, naming the file.
nlohmann::ordered_json calibration_json(const Calibration& calibration, const std::string& fingerprint);
Calibration parse_calibration(const std::string& json, const std::string& source, std::string* fingerprint = nullptr);

// The tensors of an export, by full name: for NVFP4 an input_scale for each MLP projection, with an FP8 cache k_scale and v_scale for each layer, also where there
// is no v_proj. Raises corrupt where `calibration` does not know a layer. `warnings`: linears that saw zeros alone; their scale is 1.
std::map<std::string, float> calibrated_scales(const Calibration& calibration, const ModelConfig& config, Recipe recipe, bool kv_scales, std::vector<std::string>& warnings);
}  // namespace nibble
