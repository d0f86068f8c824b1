#include "formats/model_config.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/test_paths.h"

namespace nibble {
namespace {
ModelConfig parse(std::string_view text) { return parse_model_config(text, "c"); }
std::string error_of(std::string_view text) {
  try {
    parse(text);
  } catch (const Error& error) {
    return error.message;
  }
  return "no error";
}
std::string with_text(std::string_view fields) {
  return fmt::format(R"({{"model_type": "gemma4_unified", "text_config": {{{}}}}})", fields);
}

TEST(ModelConfig, MissingKeysTakeTheFamilysDefaults) {
  const ModelConfig c = parse(R"({"model_type": "gemma4_unified", "text_config": {}})");
  EXPECT_EQ(c.vocab_size, 262144);
  EXPECT_EQ(c.hidden_size, 2304);
  EXPECT_EQ(c.intermediate_size, 9216);
  EXPECT_EQ(c.num_attention_heads, 8);
  EXPECT_EQ(c.sliding_window, 1024);
  EXPECT_EQ(c.max_position_embeddings, 262144);
  EXPECT_EQ(c.rms_norm_eps, 1e-6f);
  EXPECT_EQ(c.final_logit_softcapping, 0.0f);
  EXPECT_TRUE(c.tie_word_embeddings);
  EXPECT_TRUE(c.image_blocks_see_themselves);
  ASSERT_EQ(c.num_layers(), 30);
  for (int i = 0; i < 30; ++i) EXPECT_EQ(c.layers[i].kind == LayerKind::full, (i + 1) % 6 == 0) << i;
  EXPECT_EQ(c.layers[0].head_dim, 256);
  EXPECT_EQ(c.layers[5].head_dim, 512);
  EXPECT_EQ(c.layers[5].num_kv_heads, 4);
  EXPECT_FALSE(c.layers[5].k_eq_v);
  EXPECT_EQ(c.full_rope.theta, 1e6);
  EXPECT_EQ(c.full_rope.rotary_fraction, 0.25);
  EXPECT_EQ(c.sliding_rope.theta, 1e4);
  EXPECT_EQ(c.sliding_rope.rotary_fraction, 1.0);
  EXPECT_FALSE(c.vision);
  EXPECT_FALSE(c.audio);
  EXPECT_EQ(c.bos_token_id, 2);
}

TEST(ModelConfig, BothSpellingsOfPerLayerShapesGiveOneConfig) {
  const auto old_spelling = parse(read_config_json(test_data("quant/seed0/base")));
  const auto new_spelling = parse(read_config_json(test_data("quant/seed0/nvfp4_mse")));
  ASSERT_EQ(old_spelling.num_layers(), 6);
  ASSERT_EQ(new_spelling.num_layers(), 6);
  for (size_t i = 0; i < 6; ++i) {
    EXPECT_EQ(old_spelling.layers[i].head_dim, i == 5 ? 32 : 16);
    EXPECT_EQ(new_spelling.layers[i].head_dim, old_spelling.layers[i].head_dim);
    EXPECT_EQ(new_spelling.layers[i].num_kv_heads, old_spelling.layers[i].num_kv_heads);
    EXPECT_EQ(new_spelling.layers[i].k_eq_v, old_spelling.layers[i].k_eq_v);
  }
  EXPECT_EQ(old_spelling.vision->model_patch_size, 8);
  EXPECT_EQ(new_spelling.vision->model_patch_size, 8);
}

TEST(ModelConfig, PerLayerConfigWinsAndZeroPaddedKeysAreDecimal) {
  const ModelConfig c = parse(with_text(
      R"("num_hidden_layers": 10, "num_attention_heads": 4, "global_head_dim": 128, "head_dim": 64, "per_layer_config": {"09": {"head_dim": 96, "num_key_value_heads": 2}})"));
  EXPECT_EQ(c.layers[9].head_dim, 96);
  EXPECT_EQ(c.layers[9].num_kv_heads, 2);
  EXPECT_EQ(c.layers[5].head_dim, 128);
}

TEST(ModelConfig, GlobalKvHeadsCountOnlyWhereKeysAreValues) {
  const std::string shape = R"("num_attention_heads": 16, "num_key_value_heads": 8, "num_global_key_value_heads": 1)";
  EXPECT_EQ(parse(with_text(shape + R"(, "attention_k_eq_v": true)")).layers[5].num_kv_heads, 1);
  EXPECT_EQ(parse(with_text(shape)).layers[5].num_kv_heads, 8);
  EXPECT_EQ(parse(with_text(R"("num_attention_heads": 16, "num_key_value_heads": 8, "attention_k_eq_v": true)")).layers[5].num_kv_heads, 8);
}

TEST(ModelConfig, LastLayerIsAlwaysFull) {
  EXPECT_EQ(parse(with_text(R"("num_hidden_layers": 2, "layer_types": ["full_attention", "sliding_attention"])")).layers[1].kind, LayerKind::full);
}

TEST(ModelConfig, TextPartAloneIsAModel) {
  const ModelConfig c = parse(R"({"model_type": "gemma4_unified_text", "hidden_size": 64, "eos_token_id": [1, 106]})");
  EXPECT_EQ(c.hidden_size, 64);
  EXPECT_EQ(c.eos_token_ids, (std::vector<int32_t>{1, 106}));
}

TEST(ModelConfig, TokenIdsOfTheTopLevel) {
  const ModelConfig c = parse(read_config_json(test_data("model/tiny-realdims")));
  EXPECT_EQ(c.eoi_token_id, 501);
  EXPECT_EQ(c.eoa_token_id, 505) << "spelled eoa_token_index";
  EXPECT_EQ(c.eos_token_ids, std::vector<int32_t>{1});
  EXPECT_FALSE(c.vision) << "vision_config is null";
  EXPECT_EQ(parse(R"({"model_type": "gemma4_unified", "eoa_token_id": 7})").eoa_token_id, 7);
}

TEST(ModelConfig, ErrorsNameTheKeyAndTheValue) {
  EXPECT_EQ(error_of("{"), "c: not valid JSON");
  EXPECT_EQ(error_of("[]"), "c: not a JSON object");
  EXPECT_EQ(error_of("{}"), "c: model_type is '', supported are gemma4_unified and gemma4_unified_text");
  EXPECT_EQ(error_of(R"({"model_type": "llama"})"), "c: model_type is 'llama', supported are gemma4_unified and gemma4_unified_text");
  EXPECT_EQ(error_of(with_text(R"("hidden_size": "big")")), "c: text_config.hidden_size is \"big\", wanted an integer in [1, 2147483647]");
  EXPECT_EQ(error_of(with_text(R"("hidden_size": 0)")), "c: text_config.hidden_size is 0, wanted an integer in [1, 2147483647]");
  EXPECT_EQ(error_of(with_text(R"("num_hidden_layers": 3, "layer_types": ["full_attention"])")),
            "c: text_config.layer_types is [\"full_attention\"], wanted an array of num_hidden_layers = 3 strings");
  EXPECT_EQ(error_of(with_text(R"("num_attention_heads": 6)")), "c: layer 0: 6 attention heads are not a multiple of 4 key/value heads");
  EXPECT_EQ(error_of(with_text(R"("per_layer_config": {"30": {}})")), "c: text_config.per_layer_config is {\"30\":{}}, wanted keys that are layer indices below 30, not '30'");
  EXPECT_EQ(error_of(with_text(R"("enable_moe_block": true)")), "c: text_config.enable_moe_block: mixture-of-experts models are not supported");
  EXPECT_EQ(error_of(with_text(R"("num_kv_shared_layers": 2)")), "c: text_config.num_kv_shared_layers: layers that share K and V are not supported");
  EXPECT_EQ(error_of(with_text(R"("hidden_activation": "silu")")), "c: text_config.hidden_activation: 'silu' is not supported, only gelu_pytorch_tanh");
  EXPECT_EQ(error_of(with_text(R"("rope_parameters": {"full_attention": {"rope_type": "yarn"}})")),
            "c: text_config.rope_parameters.full_attention.rope_type is \"yarn\", wanted default or proportional");
}

TEST(ModelConfig, OverridesMergeDeeply) {
  const auto folder = test_data("quant/seed0/base");
  const ModelConfig c = parse(read_config_json(folder, R"({"text_config": {"max_position_embeddings": 4096, "rope_parameters": {"full_attention": {"factor": 2.0}}}, "vision_config": null})"));
  EXPECT_EQ(c.max_position_embeddings, 4096);
  EXPECT_EQ(c.full_rope.factor, 2.0);
  EXPECT_EQ(c.full_rope.theta, 1e6) << "keys beside the overridden one stay";
  EXPECT_EQ(c.hidden_size, 64);
  EXPECT_FALSE(c.vision);
  EXPECT_THROW(read_config_json(folder, "[1]"), Error);
  EXPECT_THROW(read_config_json(folder / "none"), Error);
}
}  // namespace
}  // namespace nibble
