#include "model/weight_names.h"

#include <gtest/gtest.h>

namespace nibble {
namespace {
TEST(WeightNames, BothVisionLayoutsComeToTheHubs) {
  const std::pair<const char*, const char*> kNames[] = {
      {"model.embed_vision.patch_ln1.bias", "vision_embedder.patch_ln1.bias"},
      {"model.embed_vision.patch_dense.weight", "vision_embedder.patch_dense.weight"},
      {"model.embed_vision.patch_ln2.weight", "vision_embedder.patch_ln2.weight"},
      {"model.embed_vision.pos_embedding", "vision_embedder.pos_embedding"},
      {"model.embed_vision.pos_norm.weight", "vision_embedder.pos_norm.weight"},
      {"model.embed_vision.multimodal_embedder.embedding_projection.weight", "embed_vision.embedding_projection.weight"},
      {"model.embed_vision.embedding_projection.weight", "embed_vision.embedding_projection.weight"},
      {"model.vision_embedder.pos_embedding", "vision_embedder.pos_embedding"},
      {"model.embed_audio.embedding_projection.weight", "embed_audio.embedding_projection.weight"},
      {"model.language_model.layers.0.mlp.up_proj.weight", "language_model.layers.0.mlp.up_proj.weight"},
      {"model.layers.0.mlp.up_proj.weight", "language_model.layers.0.mlp.up_proj.weight"},
      {"embed_tokens.weight", "language_model.embed_tokens.weight"},
      {"model.norm.weight", "language_model.norm.weight"},
      {"lm_head.weight", "lm_head.weight"},
      {"model.embed_vision.patch_dense2.weight", "embed_vision.patch_dense2.weight"},  // whole components only
  };
  for (const auto& [disk, canonical] : kNames) {
    EXPECT_EQ(canonical_name(disk), canonical);
    EXPECT_EQ(canonical_name(canonical), canonical) << "idempotent";
  }
}

TEST(WeightNames, ScalesOfAttentionAreIgnoredThoseOfWeightsAreNot) {
  for (const char* suffix : {"k_proj.k_scale", "v_proj.v_scale", "kv_scale", "q_proj.q_scale", "prob_scale", "o_proj.output_scale", "k_proj.k_bias", "rotary_emb.inv_freq",
                             "q_proj.weight_quantizer._amax"}) {
    EXPECT_TRUE(is_ignored(std::string("language_model.layers.3.self_attn.") + suffix)) << suffix;
  }
  EXPECT_FALSE(is_ignored("language_model.layers.3.self_attn.k_proj.weight_scale"));
  EXPECT_FALSE(is_ignored("language_model.layers.3.self_attn.k_proj.weight"));
  EXPECT_FALSE(is_ignored("language_model.layers.3.mlp.up_proj.k_scale"));
  EXPECT_TRUE(is_projection_kv_scale("language_model.layers.3.self_attn.v_proj.v_scale"));
  EXPECT_FALSE(is_projection_kv_scale("language_model.layers.3.self_attn.q_proj.q_scale"));
}
}  // namespace
}  // namespace nibble
