// `nibble eval --fidelity REFERENCE --model-path CANDIDATE`: how far one checkpoint's predictions are from another's, on the same token sequences.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "app/model_loader.h"

namespace nibble {
struct FidelityFlags {
  std::string reference;
  ModelFlags candidate;
  std::string prompts;         // JSONL of {"ids"} or {"text"}, or of the load tests' prompts; empty: our own prompts
  int64_t num_examples = 32;
  bool json = false;
};

// Fidelity::report() after the names and formats of both. Folders without a tokenizer want prompts as ids. Raises cancelled when interrupted.
nlohmann::ordered_json measure_fidelity(const FidelityFlags& flags);

int run_fidelity(const FidelityFlags& flags);
}  // namespace nibble
