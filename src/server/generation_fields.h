// The fields that all generating routes share, from JSON to what the engine wants.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "engine/request.h"
#include "server/json_body.h"
#include "server/structured_output.h"

namespace nibble {
// What the model's makers recommend; used where a request says nothing.
struct SamplingDefaults {
  float temperature = 1.0f, top_p = 1.0f, min_p = 0.0f, repetition_penalty = 1.0f;
  int32_t top_k = -1;
};

struct GenerationFields {
  SamplingParams sampling;
  bool seeded = false;               // otherwise the server draws a seed
  std::optional<int32_t> max_tokens;
  int32_t min_tokens = 0, num_choices = 1;
  std::vector<std::string> stop;
  std::vector<int32_t> stop_token_ids;
  bool ignore_eos = false, no_stop_trim = false, skip_special_tokens = true;
  bool stream = false, include_usage = false, continuous_usage = false;
  std::string model, rid, cache_salt;
  OutputFormat format;
};

// Throws Error with the field's path.
GenerationFields read_generation_fields(const Fields& fields, const SamplingDefaults& defaults, int32_t vocab_size);
}  // namespace nibble
