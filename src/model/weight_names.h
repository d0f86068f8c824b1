// Names of tensors on disk, brought to one spelling.
#pragma once

#include <string>
#include <string_view>

namespace nibble {
// The name without its leading `model.`, in the hub's layout of the vision tensors, and with `language_model.` in front of bare text names:
//   model.embed_vision.patch_dense.weight                        -> vision_embedder.patch_dense.weight
//   model.embed_vision.multimodal_embedder.embedding_projection.weight -> embed_vision.embedding_projection.weight
//   model.layers.0.mlp.up_proj.weight                            -> language_model.layers.0.mlp.up_proj.weight
// Idempotent, so it may be applied to either layout.
std::string canonical_name(std::string_view name);

// Tensors to know and to ignore: KV-cache and other scales under self_attn (they are not what the cache needs: K and V enter it after norm and
// RoPE, with scale 1), rotary tables, leftovers of quantizers. Takes a canonical name.
bool is_ignored(std::string_view canonical);

// Whether the name is a k_scale or v_scale of an attention projection.
bool is_projection_kv_scale(std::string_view canonical);
}  // namespace nibble
