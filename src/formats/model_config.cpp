#include "formats/model_config.h"

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "base/file_io.h"
#include "formats/json_fields.h"

namespace nibble {
using nlohmann::json;

namespace {
constexpr int64_t kMaxLayers = 1024;

int32_t integer_or(const JsonFields& fields, const char* key, int64_t fallback, int64_t low = 1) {
  return static_cast<int32_t>(fields.integer(key, low).value_or(fallback));
}

std::vector<LayerKind> read_layer_kinds(const JsonFields& text, int64_t num_layers) {
  std::vector<LayerKind> kinds;
  if (text.has("layer_types")) {
    const json& types = text.raw()["layer_types"];
    if (!types.is_array() || static_cast<int64_t>(types.size()) != num_layers) {
      text.bad("layer_types", fmt::format("an array of num_hidden_layers = {} strings", num_layers));
    }
    for (const json& type : types) {
      if (type == "full_attention") {
        kinds.push_back(LayerKind::full);
      } else if (type == "sliding_attention") {
        kinds.push_back(LayerKind::sliding);
      } else {
        text.bad("layer_types", "only sliding_attention and full_attention");
      }
    }
  } else {
    for (int64_t i = 0; i < num_layers; ++i) kinds.push_back((i + 1) % 6 == 0 ? LayerKind::full : LayerKind::sliding);
  }
  kinds.back() = LayerKind::full;  // the family's rule: the last layer always sees everything
  return kinds;
}

RopeConfig read_rope(const JsonFields& text, LayerKind kind) {
  const bool full = kind == LayerKind::full;
  RopeConfig rope = full ? RopeConfig{.theta = 1e6, .rotary_fraction = 0.25, .factor = 1.0} : RopeConfig{};
  const auto parameters = text.object("rope_parameters");
  const auto own = parameters ? parameters->object(full ? "full_attention" : "sliding_attention") : std::nullopt;
  if (!own) return rope;
  const std::string type = own->string("rope_type").value_or(full ? "proportional" : "default");
  if (type != "default" && type != "proportional") own->bad("rope_type", "default or proportional");
  rope.theta = own->number("rope_theta").value_or(rope.theta);
  rope.rotary_fraction = type == "default" ? 1.0 : own->number("partial_rotary_factor").value_or(1.0);
  rope.factor = own->number("factor").value_or(1.0);
  if (rope.theta <= 0) own->bad("rope_theta", "a positive number");
  if (rope.rotary_fraction < 0 || rope.rotary_fraction > 1) own->bad("partial_rotary_factor", "a number in [0, 1]");
  if (rope.factor <= 0) own->bad("factor", "a positive number");
  return rope;
}

// {"05": {"head_dim": 512, "num_key_value_heads": 1}, ...}: layer index in decimal, zero-padded or not.
void apply_per_layer_config(const JsonFields& text, std::vector<LayerConfig>& layers) {
  const auto overrides = text.object("per_layer_config");
  if (!overrides) return;
  for (const auto& [key, value] : overrides->raw().items()) {
    size_t index = 0;
    const auto [end, status] = std::from_chars(key.data(), key.data() + key.size(), index);
    if (status != std::errc() || end != key.data() + key.size() || index >= layers.size()) {
      text.bad("per_layer_config", fmt::format("keys that are layer indices below {}, not '{}'", layers.size(), key));
    }
    const auto fields = overrides->object(key.c_str());
    if (!fields) continue;
    layers[index].head_dim = integer_or(*fields, "head_dim", layers[index].head_dim);
    layers[index].num_kv_heads = integer_or(*fields, "num_key_value_heads", layers[index].num_kv_heads);
  }
}

std::vector<LayerConfig> read_layers(const JsonFields& text) {
  const int64_t num_layers = text.integer("num_hidden_layers", 1, kMaxLayers).value_or(30);
  const int32_t head_dim = integer_or(text, "head_dim", 256), kv_heads = integer_or(text, "num_key_value_heads", 4);
  const bool k_eq_v = text.boolean("attention_k_eq_v").value_or(false);
  const bool old_spelling = !text.has("per_layer_config");
  std::vector<LayerConfig> layers;
  for (const LayerKind kind : read_layer_kinds(text, num_layers)) {
    LayerConfig layer{.kind = kind, .head_dim = head_dim, .num_kv_heads = kv_heads, .k_eq_v = k_eq_v && kind == LayerKind::full};
    if (kind == LayerKind::full && (old_spelling || text.has("global_head_dim"))) {
      layer.head_dim = integer_or(text, "global_head_dim", old_spelling ? 512 : head_dim);
      if (k_eq_v) layer.num_kv_heads = integer_or(text, "num_global_key_value_heads", kv_heads);
    }
    layers.push_back(layer);
  }
  apply_per_layer_config(text, layers);
  return layers;
}

// Members of the wider family that this program does not compute: refuse by name rather than answer with noise.
void refuse_unsupported(const JsonFields& text, std::string_view source, bool assistant) {
  const auto refuse = [&](const char* key, std::string_view why) { raise(ErrorCode::unsupported, "{}: text_config.{}: {}", source, key, why); };
  if (text.boolean("enable_moe_block").value_or(false)) refuse("enable_moe_block", "mixture-of-experts models are not supported");
  if (!assistant && text.integer("num_kv_shared_layers").value_or(0) != 0) refuse("num_kv_shared_layers", "layers that share K and V are not supported");
  if (text.integer("hidden_size_per_layer_input").value_or(0) != 0) refuse("hidden_size_per_layer_input", "per-layer inputs are not supported");
  if (text.boolean("use_double_wide_mlp").value_or(false)) refuse("use_double_wide_mlp", "double-wide MLPs are not supported");
  if (text.boolean("attention_bias").value_or(false)) refuse("attention_bias", "biased attention projections are not supported");
  const std::string activation = text.string("hidden_activation").value_or("gelu_pytorch_tanh");
  if (activation != "gelu_pytorch_tanh") refuse("hidden_activation", fmt::format("'{}' is not supported, only gelu_pytorch_tanh", activation));
}

void check_shapes(const ModelConfig& config, std::string_view source) {
  for (int32_t i = 0; i < config.num_layers(); ++i) {
    const LayerConfig& layer = config.layers[static_cast<size_t>(i)];
    if (config.num_attention_heads % layer.num_kv_heads != 0) {
      raise(ErrorCode::corrupt, "{}: layer {}: {} attention heads are not a multiple of {} key/value heads", source, i, config.num_attention_heads,
            layer.num_kv_heads);
    }
    if (layer.head_dim % 2 != 0) raise(ErrorCode::corrupt, "{}: layer {}: head_dim {} is odd", source, i, layer.head_dim);
  }
}

void read_text(const JsonFields& top, const JsonFields& text, std::string_view source, ModelConfig& config) {
  config.vocab_size = integer_or(text, "vocab_size", 262144);
  config.hidden_size = integer_or(text, "hidden_size", 2304);
  config.intermediate_size = integer_or(text, "intermediate_size", 9216);
  config.num_attention_heads = integer_or(text, "num_attention_heads", 8);
  config.sliding_window = integer_or(text, "sliding_window", 1024);
  config.max_position_embeddings = integer_or(text, "max_position_embeddings", 262144);
  config.rms_norm_eps = static_cast<float>(text.number("rms_norm_eps").value_or(1e-6));
  config.final_logit_softcapping = static_cast<float>(text.number("final_logit_softcapping").value_or(0.0));
  config.tie_word_embeddings = top.boolean("tie_word_embeddings").value_or(text.boolean("tie_word_embeddings").value_or(true));
  if (text.raw().contains("use_bidirectional_attention")) {  // null is a value here: causal everywhere
    const std::string scope = text.string("use_bidirectional_attention").value_or("");
    if (!scope.empty() && scope != "vision") text.bad("use_bidirectional_attention", "\"vision\" or null");
    config.image_blocks_see_themselves = scope == "vision";
  }
  config.layers = read_layers(text);
  config.sliding_rope = read_rope(text, LayerKind::sliding);
  config.full_rope = read_rope(text, LayerKind::full);
  check_shapes(config, source);
}

ModelConfig read_media_and_ids(const JsonFields& top, const JsonFields& text, ModelConfig config) {
  if (const auto vision = top.object("vision_config")) {
    VisionConfig& v = config.vision.emplace();
    const int32_t patch = integer_or(*vision, "patch_size", 16), pooling = integer_or(*vision, "pooling_kernel_size", 3);
    v.model_patch_size = integer_or(*vision, "model_patch_size", int64_t{patch} * pooling);
    v.mm_embed_dim = integer_or(*vision, "mm_embed_dim", config.hidden_size);
    v.mm_posemb_size = integer_or(*vision, "mm_posemb_size", 1120);
    v.num_soft_tokens = integer_or(*vision, "num_soft_tokens", 280);
    v.rms_norm_eps = static_cast<float>(vision->number("rms_norm_eps").value_or(1e-6));
  }
  if (const auto audio = top.object("audio_config")) {
    AudioConfig& a = config.audio.emplace();
    a.audio_embed_dim = integer_or(*audio, "audio_embed_dim", 640);
    a.rms_norm_eps = static_cast<float>(audio->number("rms_norm_eps").value_or(1e-6));
  }

  config.eos_token_ids = top.integers("eos_token_id");
  if (config.eos_token_ids.empty()) config.eos_token_ids = text.integers("eos_token_id");
  const auto id = [&](const char* key, int32_t fallback) { return integer_or(top, key, integer_or(text, key, fallback, 0), 0); };
  config.bos_token_id = id("bos_token_id", 2);
  config.pad_token_id = id("pad_token_id", 0);
  const auto media_id = [&](const char* key) { return static_cast<int32_t>(top.integer(key).value_or(-1)); };
  config.image_token_id = media_id("image_token_id");
  config.audio_token_id = media_id("audio_token_id");
  config.video_token_id = media_id("video_token_id");
  config.boi_token_id = media_id("boi_token_id");
  config.eoi_token_id = media_id("eoi_token_id");
  config.boa_token_id = media_id("boa_token_id");
  config.eoa_token_id = top.has("eoa_token_index") ? media_id("eoa_token_index") : media_id("eoa_token_id");
  return config;
}
}  // namespace

ModelConfig parse_model_config(std::string_view json_text, std::string_view source) {
  const json root = parse_json_object(json_text, source);
  const JsonFields top(root, source);
  ModelConfig config;
  config.model_type = top.string("model_type").value_or("");
  if (config.model_type != "gemma4_unified" && config.model_type != "gemma4_unified_text") {
    raise(ErrorCode::unsupported, "{}: model_type is '{}', supported are gemma4_unified and gemma4_unified_text", source, config.model_type);
  }
  if (top.has("architectures") && root["architectures"].is_array() && !root["architectures"].empty() && root["architectures"][0].is_string()) {
    config.architecture = root["architectures"][0].get<std::string>();
  }
  const JsonFields text = top.object("text_config").value_or(top);
  refuse_unsupported(text, source, /*assistant=*/false);
  read_text(top, text, source, config);
  return read_media_and_ids(top, text, std::move(config));
}

namespace {
constexpr const char* kAssistants[] = {"Gemma4UnifiedAssistantForCausalLM", "Gemma4AssistantForCausalLM"};
}

bool is_assistant_config(std::string_view json_text, std::string_view source) {
  const json root = parse_json_object(json_text, source);
  if (!root.contains("architectures") || !root["architectures"].is_array()) return false;
  return std::any_of(root["architectures"].begin(), root["architectures"].end(),
                     [](const json& name) { return std::any_of(std::begin(kAssistants), std::end(kAssistants), [&](const char* known) { return name == known; }); });
}

AssistantConfig parse_assistant_config(std::string_view json_text, std::string_view source) {
  if (!is_assistant_config(json_text, source)) raise(ErrorCode::unsupported, "{}: not an assistant: architectures must hold {} or {}", source, kAssistants[0], kAssistants[1]);
  const json root = parse_json_object(json_text, source);
  const JsonFields top(root, source);
  const JsonFields text = top.object("text_config").value_or(top);
  refuse_unsupported(text, source, /*assistant=*/true);
  if (top.boolean("use_ordered_embeddings").value_or(false)) raise(ErrorCode::unsupported, "{}: use_ordered_embeddings: heads of centroids are not supported", source);
  AssistantConfig config;
  config.text.architecture = root["architectures"][0].get<std::string>();
  config.text.model_type = top.string("model_type").value_or("");
  read_text(top, text, source, config.text);
  const int64_t layers = config.text.num_layers(), shared = text.integer("num_kv_shared_layers").value_or(0);
  if (shared != 0 && shared != layers) raise(ErrorCode::unsupported, "{}: num_kv_shared_layers is {}, an assistant's {} layers all read the target's K and V", source, shared, layers);
  config.backbone_hidden_size = integer_or(top, "backbone_hidden_size", 0);
  if (config.backbone_hidden_size == 0) top.bad("backbone_hidden_size", "the target's hidden size");
  return config;
}

void check_assistant(const AssistantConfig& assistant, const ModelConfig& target, std::string_view source) {
  const auto equal = [&](const char* what, int64_t found, int64_t wanted) {
    if (found != wanted) raise(ErrorCode::invalid_argument, "{}: {} is {}, the target has {}; this assistant belongs to another model", source, what, found, wanted);
  };
  equal("backbone_hidden_size", assistant.backbone_hidden_size, target.hidden_size);
  equal("vocab_size", assistant.text.vocab_size, target.vocab_size);
  for (const LayerConfig& layer : assistant.text.layers) {
    const bool full = layer.kind == LayerKind::full;
    const auto last = std::find_if(target.layers.rbegin(), target.layers.rend(), [&](const LayerConfig& l) { return l.kind == layer.kind; });
    if (last == target.layers.rend()) raise(ErrorCode::invalid_argument, "{}: has {} layers, the target has none", source, full ? "full_attention" : "sliding_attention");
    equal(full ? "global_head_dim" : "head_dim", layer.head_dim, last->head_dim);
    if (assistant.text.num_attention_heads % last->num_kv_heads != 0) equal("num_attention_heads", assistant.text.num_attention_heads, target.num_attention_heads);
    equal(full ? "num_global_key_value_heads" : "num_key_value_heads", layer.num_kv_heads, last->num_kv_heads);
    if (!full) equal("sliding_window", assistant.text.sliding_window, target.sliding_window);
    const RopeConfig &mine = assistant.text.rope(layer.kind), &theirs = target.rope(layer.kind);
    if (mine.theta != theirs.theta || mine.rotary_fraction != theirs.rotary_fraction || mine.factor != theirs.factor) {
      raise(ErrorCode::invalid_argument, "{}: rope_parameters of {} layers are not the target's", source, full ? "full_attention" : "sliding_attention");
    }
  }
}

namespace {
void merge_deep(json& into, const json& from) {
  for (const auto& [key, value] : from.items()) {
    if (value.is_object() && into.contains(key) && into[key].is_object()) {
      merge_deep(into[key], value);
    } else {
      into[key] = value;
    }
  }
}
}  // namespace

std::string read_config_json(const std::filesystem::path& folder, std::string_view overrides) {
  const auto path = folder / "config.json";
  if (!std::filesystem::is_directory(folder)) raise(ErrorCode::not_found, "{}: no such model folder", folder.string());
  if (!std::filesystem::exists(path)) raise(ErrorCode::not_found, "{}: not a model folder, it has no config.json", folder.string());
  const std::string text = read_file(path);
  if (overrides.empty()) return text;
  json root = parse_json_object(text, path.string());
  merge_deep(root, parse_json_object(overrides, "--json-model-override-args"));
  return root.dump();
}
}  // namespace nibble
