#include "model/weight_source.h"

#include "base/error.h"
#include "base/number_formats.h"

namespace nibble {
namespace {
LayerWeights assemble_layer(const ModelConfig& config, int32_t index, WeightSource& source, bool with_kv = true) {
  const LayerConfig& layer = config.layers[static_cast<size_t>(index)];
  const std::string prefix = fmt::format("language_model.layers.{}.", index), attention = prefix + "self_attn.", mlp = prefix + "mlp.";
  const int64_t hidden = config.hidden_size, inner = config.intermediate_size;
  const int64_t q_size = int64_t{config.num_attention_heads} * layer.head_dim, kv_size = int64_t{layer.num_kv_heads} * layer.head_dim;
  LayerWeights w;
  w.input_norm = source.plain(prefix + "input_layernorm.weight", {hidden});
  w.post_attention_norm = source.plain(prefix + "post_attention_layernorm.weight", {hidden});
  w.pre_feedforward_norm = source.plain(prefix + "pre_feedforward_layernorm.weight", {hidden});
  w.post_feedforward_norm = source.plain(prefix + "post_feedforward_layernorm.weight", {hidden});
  w.q_norm = source.plain(attention + "q_norm.weight", {layer.head_dim});
  if (with_kv) w.k_norm = source.plain(attention + "k_norm.weight", {layer.head_dim});
  if (const Tensor scalar = source.plain(prefix + "layer_scalar", {1})) w.layer_scalar = to_float(*scalar.as<bf16>());
  w.q = source.linear(attention + "q_proj", q_size, hidden);
  if (with_kv) w.k = source.linear(attention + "k_proj", kv_size, hidden);
  if (with_kv && !layer.k_eq_v) w.v = source.linear(attention + "v_proj", kv_size, hidden);
  w.o = source.linear(attention + "o_proj", hidden, q_size);
  w.gate = source.linear(mlp + "gate_proj", inner, hidden);
  w.up = source.linear(mlp + "up_proj", inner, hidden);
  w.down = source.linear(mlp + "down_proj", hidden, inner);
  return w;
}

void assemble_media(const ModelConfig& config, WeightSource& source, std::map<std::string, Tensor>& out) {
  const auto add = [&](const std::string& name, const Shape& shape) { out.emplace(name, source.plain(name, shape)); };
  if (config.vision) {
    const int64_t width = config.vision->mm_embed_dim, pixels = int64_t{config.vision->model_patch_size} * config.vision->model_patch_size * 3;
    for (const char* part : {".weight", ".bias"}) {
      add(std::string("vision_embedder.patch_ln1") + part, {pixels});
      add(std::string("vision_embedder.patch_ln2") + part, {width});
      add(std::string("vision_embedder.pos_norm") + part, {width});
    }
    add("vision_embedder.patch_dense.weight", {width, pixels});
    add("vision_embedder.patch_dense.bias", {width});
    add("vision_embedder.pos_embedding", {config.vision->mm_posemb_size, 2, width});
    add("embed_vision.embedding_projection.weight", {config.hidden_size, width});
  }
  if (config.audio) add("embed_audio.embedding_projection.weight", {config.hidden_size, config.audio->audio_embed_dim});
}
}  // namespace

namespace {
void assemble_ends(const ModelConfig& config, WeightSource& source, ModelWeights& weights) {
  const int64_t hidden = config.hidden_size;
  weights.embed = source.plain("language_model.embed_tokens.weight", {config.vocab_size, hidden});
  weights.final_norm = source.plain("language_model.norm.weight", {hidden});
  weights.head_is_tied = config.tie_word_embeddings;
  weights.head = config.tie_word_embeddings ? LinearWeight(Bf16Weight{weights.embed}) : source.linear("lm_head", config.vocab_size, hidden);
}
}  // namespace

void assemble_assistant(const AssistantConfig& config, WeightSource& source, AssistantWeights& weights) {
  assemble_ends(config.text, source, weights.decoder);
  for (int32_t i = 0; i < config.text.num_layers(); ++i) weights.decoder.layers.push_back(assemble_layer(config.text, i, source, /*with_kv=*/false));
  weights.pre_projection = source.linear("pre_projection", config.text.hidden_size, int64_t{2} * config.backbone_hidden_size);
  weights.post_projection = source.linear("post_projection", config.backbone_hidden_size, config.text.hidden_size);
}

void assemble_weights(const ModelConfig& config, WeightSource& source, ModelWeights& weights) {
  assemble_ends(config, source, weights);
  for (int32_t i = 0; i < config.num_layers(); ++i) weights.layers.push_back(assemble_layer(config, i, source));
  assemble_media(config, source, weights.media);
}

bool is_meant_quantized(const QuantConfig& quant, const std::string& module, int64_t in_features) {
  if (quant.algo == QuantAlgo::none || module == "lm_head") return false;
  if (quant.algo == QuantAlgo::nvfp4 && in_features % kNvfp4Block != 0) return false;
  return !is_excluded("model." + module, quant.excluded);
}
}  // namespace nibble
