#include "model/weight_names.h"

#include <array>

namespace nibble {
namespace {
bool take_prefix(std::string_view& name, std::string_view prefix) {
  if (!name.starts_with(prefix)) return false;
  name.remove_prefix(prefix.size());
  return true;
}
}  // namespace

std::string canonical_name(std::string_view name) {
  take_prefix(name, "model.");
  if (std::string_view rest = name; take_prefix(rest, "embed_vision.")) {
    for (const std::string_view part : {"patch_ln1.", "patch_dense.", "patch_ln2.", "pos_norm."}) {
      if (rest.starts_with(part)) return "vision_embedder." + std::string(rest);
    }
    if (rest == "pos_embedding") return "vision_embedder.pos_embedding";
    if (take_prefix(rest, "multimodal_embedder.")) return "embed_vision." + std::string(rest);
  }
  if (name.starts_with("layers.") || name.starts_with("embed_tokens.") || name.starts_with("norm.")) return "language_model." + std::string(name);
  return std::string(name);
}

bool is_projection_kv_scale(std::string_view name) {
  return name.find(".self_attn.") != std::string_view::npos && (name.ends_with(".k_scale") || name.ends_with(".v_scale"));
}

bool is_ignored(std::string_view name) {
  if (name.find(".self_attn.") != std::string_view::npos) {
    constexpr std::array<std::string_view, 8> kScales{".k_scale", ".v_scale", ".kv_scale", ".q_scale", ".prob_scale", ".output_scale", ".k_bias", ".v_bias"};
    for (const std::string_view suffix : kScales) {
      if (name.ends_with(suffix)) return true;
    }
  }
  if (name.ends_with(".rotary_emb.inv_freq")) return true;
  const size_t quantizer = name.find("_quantizer.");
  return quantizer != std::string_view::npos;
}
}  // namespace nibble
