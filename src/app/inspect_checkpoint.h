// `nibble inspect checkpoint DIR`: what a model folder holds, whether it fits its config, and what serving it would take.
#pragma once

#include <iosfwd>
#include <string>

#include "formats/model_folder.h"

namespace nibble {
struct InspectCheckpointOptions {
  ModelLocation model;
  std::string overrides;               // --json-model-override-args
  std::string kv_cache_dtype = "auto"; // auto, float32, bfloat16 (bf16), fp8_e4m3
  bool plan = false;                   // add the memory plan of this machine
  bool json = false;
};

// Writes the report; returns the exit code: 0, or 1 when tensors are missing, unknown or wrong (they are listed). Raises what makes a report
// impossible: no such folder, an unreadable config, a corrupt safetensors header.
int inspect_checkpoint(const InspectCheckpointOptions& options, std::ostream& out);
}  // namespace nibble
