// How the memory of a device is divided: weights, what steps work in, and the pages of the KV cache.
//
// Sliding layers keep a window of each sequence, full layers all of it. So the sliding pool gets what max_running windows and one step need, and a quarter more for
// cached prefixes; what is left goes to the full pool, whose tokens are far cheaper. Where that much is not to be had, both pools hold the same number of tokens.
#pragma once

#include <cstdint>
#include <string>

#include "formats/model_config.h"
#include "model/step.h"
#include "model/weights.h"

namespace nibble {
struct MemoryNeeds {
  int64_t device_bytes = 0, free_bytes = 0;  // 0: the host's memory, of which the cache takes 2 GiB at most
  int64_t weight_bytes = 0;                  // once on the device
  int64_t working_bytes = 0;                 // scratch, logits, staging, the driver's own
  int32_t page_tokens = 16, sliding_window = 0;
  int64_t full_page_bytes = 0, sliding_page_bytes = 0;  // of all layers, K and V
  int32_t max_running = 1, max_rows = 1;                // sequences; rows of a step
  int64_t context_length = 0;
  double fraction = 0;           // --mem-fraction-static: weights and cache take this share of the device; 0: 0.9, or what is free
  int64_t max_total_tokens = 0;  // --max-total-tokens: of the full pool; 0: as many as fit
};

struct MemoryPlan {
  int32_t num_full_pages = 0, num_sliding_pages = 0;
  std::string text;  // one line for the log
};

// Raises out_of_memory with the number that fits, or invalid_argument for a fraction outside (0, 1).
MemoryPlan plan_memory(const MemoryNeeds& needs);

// What the weights take on a device: as stored, and a tied head once more in the order of the kernels.
int64_t device_weight_bytes(const ModelWeights& weights);
// What a model of this config works in, for steps of `max_rows` rows.
int64_t device_working_bytes(const ModelConfig& config, const ModelWeights& weights, int32_t max_rows);
}  // namespace nibble
