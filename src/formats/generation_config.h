// generation_config.json: end tokens, tokens never to sample, and the sampling defaults that the model's makers recommend.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string_view>
#include <vector>

#include "formats/model_config.h"

namespace nibble {
struct GenerationConfig {
  std::vector<int32_t> eos_token_ids;   // union of this file's and config.json's, ascending
  std::vector<int32_t> suppress_tokens; // the file's; without any, the end-of-image and end-of-audio ids, whose rows in the head are inflated
  std::optional<float> temperature, top_p, min_p, repetition_penalty;
  std::optional<int32_t> top_k;         // 0 and -1 in the file mean off and give nullopt
};

// `text` may be empty (no such file). Raises corrupt.
GenerationConfig parse_generation_config(std::string_view text, const ModelConfig& model, std::string_view source);
GenerationConfig read_generation_config(const std::filesystem::path& folder, const ModelConfig& model);
}  // namespace nibble
