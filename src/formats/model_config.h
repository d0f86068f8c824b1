// config.json of the Gemma 4 unified family: everything the forward pass needs to know, with the family's defaults filled in.
//
// Both spellings of the per-layer shapes are read: `global_head_dim` / `num_global_key_value_heads`, and `per_layer_config`, which wins.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace nibble {
enum class LayerKind : uint8_t { sliding, full };

// Rotary embedding of one layer kind: pair p of head_dim / 2 turns by position * theta^(-2p / head_dim) / factor, for the first
// `rotary_fraction` of the pairs; the others pass unchanged.
struct RopeConfig {
  double theta = 10000.0;
  double rotary_fraction = 1.0;
  double factor = 1.0;
};

struct LayerConfig {
  LayerKind kind = LayerKind::sliding;
  int32_t head_dim = 0;
  int32_t num_kv_heads = 0;
  bool k_eq_v = false;  // V is made from k_proj's output; there is no v_proj
};

struct VisionConfig {
  int32_t model_patch_size = 48;  // pixels
  int32_t mm_embed_dim = 0;
  int32_t mm_posemb_size = 1120;
  int32_t num_soft_tokens = 280;
  float rms_norm_eps = 1e-6f;
};

struct AudioConfig {
  int32_t audio_embed_dim = 640;
  float rms_norm_eps = 1e-6f;
};

struct ModelConfig {
  std::string model_type, architecture;
  int32_t vocab_size = 0;
  int32_t hidden_size = 0;
  int32_t intermediate_size = 0;
  int32_t num_attention_heads = 0;
  int32_t sliding_window = 0;
  int32_t max_position_embeddings = 0;
  float rms_norm_eps = 1e-6f;
  float final_logit_softcapping = 0.0f;  // 0: none
  bool tie_word_embeddings = true;
  bool image_blocks_see_themselves = true;  // use_bidirectional_attention "vision": soft tokens of one image attend both ways
  std::vector<LayerConfig> layers;
  RopeConfig sliding_rope, full_rope;
  std::optional<VisionConfig> vision;
  std::optional<AudioConfig> audio;
  std::vector<int32_t> eos_token_ids;  // may be empty
  int32_t bos_token_id = 2, pad_token_id = 0;
  int32_t image_token_id = -1, audio_token_id = -1, video_token_id = -1;
  int32_t boi_token_id = -1, eoi_token_id = -1, boa_token_id = -1, eoa_token_id = -1;  // -1: not named

  const RopeConfig& rope(LayerKind kind) const { return kind == LayerKind::full ? full_rope : sliding_rope; }
  int32_t num_layers() const { return static_cast<int32_t>(layers.size()); }
};

// Raises corrupt or unsupported, naming `source` and the key.
ModelConfig parse_model_config(std::string_view json_text, std::string_view source);

// config.json of the assistant that drafts for a target: a small text decoder whose layers have queries alone, and two projections from and to the
// target's hidden size.
struct AssistantConfig {
  ModelConfig text;                // layers: head sizes are the target's, k_eq_v means nothing here
  int32_t backbone_hidden_size = 0;
};
bool is_assistant_config(std::string_view json_text, std::string_view source);
AssistantConfig parse_assistant_config(std::string_view json_text, std::string_view source);
// Raises invalid_argument, naming both values, when the assistant does not belong to this target.
void check_assistant(const AssistantConfig& assistant, const ModelConfig& target, std::string_view source);

// config.json of a folder, with `overrides` (a JSON object, "" for none) merged in deeply before it is read.
std::string read_config_json(const std::filesystem::path& folder, std::string_view overrides = {});
}  // namespace nibble
