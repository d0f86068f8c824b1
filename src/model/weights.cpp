#include "model/weights.h"

#include <cmath>
#include <cstring>
#include <set>

#include "base/error.h"
#include "base/number_formats.h"
#include "model/weight_names.h"

namespace nibble {
namespace {
std::string text_of(const Shape& shape) {
  std::string out = "[";
  for (int i = 0; i < shape.rank; ++i) out += fmt::format("{}{}", i ? ", " : "", shape[i]);
  return out + "]";
}

bool is_plain(DType dtype) { return dtype == DType::bf16 || dtype == DType::f16 || dtype == DType::f32; }

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
}  // namespace

// Takes tensors out of the files by canonical name and collects every complaint on the way.
class WeightLoader {
 public:
  WeightLoader(const std::filesystem::path& folder, const ModelConfig& config, const QuantConfig& quant) : config_(config), quant_(quant), folder_(folder) {
    weights_.files_ = TensorFiles::open(folder);
    weights_.files_.will_need();
    for (const auto& [name, stored] : weights_.files_.tensors()) {
      const std::string canonical = canonical_name(name);
      const auto [at, fresh] = found_.emplace(canonical, Found{name, &stored});
      if (!fresh) problems_.push_back(fmt::format("{} and {} are the same tensor in two layouts", at->second.name, name));
    }
  }

  ModelWeights run() {
    const int64_t hidden = config_.hidden_size;
    const std::string lm = "language_model.";
    weights_.embed = plain(lm + "embed_tokens.weight", {config_.vocab_size, hidden});
    weights_.final_norm = plain(lm + "norm.weight", {hidden});
    load_head();
    for (int32_t i = 0; i < config_.num_layers(); ++i) weights_.layers.push_back(load_layer(i));
    load_vision();
    load_audio();
    account_for_the_rest();
    if (!problems_.empty()) raise_problems();
    return std::move(weights_);
  }

 private:
  struct Found {
    std::string name;  // as on disk
    const StoredTensor* stored;
    bool used = false;
  };

  Found* take(const std::string& name) {
    const auto at = found_.find(name);
    if (at == found_.end()) return nullptr;
    at->second.used = true;
    return &at->second;
  }
  bool has(const std::string& name) const { return found_.contains(name); }

  template <typename... Args>
  void complain(const Found& found, fmt::format_string<Args...> format, Args&&... args) {
    problems_.push_back(fmt::format("{}: {} ({})", found.name, fmt::format(format, std::forward<Args>(args)...), found.stored->file));
  }

  const Found* expect(const std::string& name, const Shape& shape) {
    const Found* found = take(name);
    if (!found) {
      problems_.push_back(fmt::format("model.{}: missing, expected shape {}", name, text_of(shape)));
      return nullptr;
    }
    if (found->stored->tensor.shape == shape) return found;
    complain(*found, "shape {}, expected {}", text_of(found->stored->tensor.shape), text_of(shape));
    return nullptr;
  }

  // A BF16 tensor; F16 and F32 are converted. An empty Tensor after a complaint.
  Tensor plain(const std::string& name, const Shape& shape) {
    const Found* found = expect(name, shape);
    if (!found) return {};
    const Tensor& tensor = found->stored->tensor;
    if (tensor.dtype == DType::bf16) return tensor;
    if (!is_plain(tensor.dtype)) {
      complain(*found, "dtype {}, expected BF16", name_of(tensor.dtype));
      return {};
    }
    const int64_t count = tensor.count();
    auto memory = std::make_unique<std::byte[]>(static_cast<size_t>(count) * sizeof(bf16));
    bf16* out = reinterpret_cast<bf16*>(memory.get());
    for (int64_t i = 0; i < count; ++i) out[i] = to_bf16(tensor.dtype == DType::f32 ? tensor.as<float>()[i] : to_float(tensor.as<f16>()[i]));
    weights_.owned_.push_back(std::move(memory));
    return {out, DType::bf16, shape};
  }

  // A single F32, stored as [] or [1].
  std::optional<float> scalar(const std::string& name, bool must_be_positive) {
    const Found* found = take(name);
    if (!found) {
      problems_.push_back(fmt::format("model.{}: missing, expected one F32", name));
      return std::nullopt;
    }
    const Tensor& tensor = found->stored->tensor;
    if (tensor.count() != 1 || tensor.dtype != DType::f32) {
      complain(*found, "{} of shape {}, expected one F32", name_of(tensor.dtype), text_of(tensor.shape));
      return std::nullopt;
    }
    float value;
    std::memcpy(&value, tensor.data, sizeof value);
    if (must_be_positive && !(std::isfinite(value) && value > 0)) {
      complain(*found, "is {}, expected a positive finite number", value);
      return std::nullopt;
    }
    return value;
  }

  LinearWeight linear(const std::string& module, int64_t out_features, int64_t in_features) {
    const auto at = found_.find(module + ".weight");
    const DType dtype = at == found_.end() ? DType::bf16 : at->second.stored->tensor.dtype;
    LinearWeight weight;
    if (dtype == DType::u8) {
      weight = nvfp4(module, out_features, in_features);
    } else if (dtype == DType::e4m3) {
      weight = fp8_block(module, out_features, in_features);
    } else {
      weight = Bf16Weight{plain(module + ".weight", {out_features, in_features})};
      for (const char* scale : {".weight_scale", ".weight_scale_2", ".input_scale", ".weight_scale_inv"}) {
        if (const Found* found = take(module + scale)) complain(*found, "a scale beside a weight of dtype {}", name_of(dtype));
      }
    }
    check_against_config(module, !std::holds_alternative<Bf16Weight>(weight));
    return weight;
  }

  LinearWeight nvfp4(const std::string& module, int64_t n, int64_t k) {
    Nvfp4Weight weight;
    if (k % kNvfp4Block != 0) problems_.push_back(fmt::format("model.{}: NVFP4 wants inputs in blocks of 16, the config has {}", module, k));
    if (const Found* codes = expect(module + ".weight", {n, k / 2})) weight.codes = codes->stored->tensor;
    if (const Found* scales = expect(module + ".weight_scale", {n, k / kNvfp4Block})) {
      weight.block_scales = scales->stored->tensor;
      if (weight.block_scales.dtype != DType::e4m3) {
        complain(*scales, "dtype {}, expected F8_E4M3", name_of(weight.block_scales.dtype));
      } else {
        check_block_scales(*scales);
      }
    }
    weight.tensor_scale = scalar(module + ".weight_scale_2", true).value_or(1.0f);
    if (has(module + ".input_scale")) weight.input_scale = scalar(module + ".input_scale", true).value_or(0.0f);
    return weight;
  }

  void check_block_scales(const Found& found) {
    const Tensor& scales = found.stored->tensor;
    const uint8_t* codes = scales.as<uint8_t>();
    // Branch-free so that it vectorizes: half a gigabyte of scales in the 12B.
    uint8_t worst = 0;
    for (int64_t i = 0, n = scales.count(); i < n; ++i) worst |= static_cast<uint8_t>((codes[i] & 0x7f) == 0x7f);
    if (worst) complain(found, "holds NaN block scales (0x7F or 0xFF)");
  }

  LinearWeight fp8_block(const std::string& module, int64_t n, int64_t k) {
    Fp8BlockWeight weight;
    if (const Found* codes = expect(module + ".weight", {n, k})) weight.codes = codes->stored->tensor;
    const std::string name = module + (has(module + ".weight_scale") ? ".weight_scale" : ".weight_scale_inv");
    const int64_t rows = ceil_div(n, kFp8Block), cols = ceil_div(k, kFp8Block);
    const Found* scales = take(name);
    if (!scales) {
      problems_.push_back(fmt::format("model.{}.weight_scale: missing, expected shape [{}, 1, {}, 1]", module, rows, cols));
      return weight;
    }
    const Tensor& stored = scales->stored->tensor;
    if (stored.shape != Shape{rows, 1, cols, 1} && stored.shape != Shape{rows, cols}) {
      complain(*scales, "shape {}, expected [{}, 1, {}, 1] or [{}, {}]", text_of(stored.shape), rows, cols, rows, cols);
    } else if (stored.dtype != DType::f32) {
      complain(*scales, "dtype {}, expected F32", name_of(stored.dtype));
    } else {
      for (int64_t i = 0; i < stored.count(); ++i) {
        float scale;
        std::memcpy(&scale, stored.as<std::byte>() + i * 4, 4);
        if (!(std::isfinite(scale) && scale > 0)) {
          complain(*scales, "holds {} where a positive finite scale belongs", scale);
          break;
        }
      }
      weight.scales = {stored.data, DType::f32, {rows, cols}};
    }
    return weight;
  }

  void check_against_config(const std::string& module, bool quantized) {
    if (quant_.algo == QuantAlgo::none) {
      if (quantized) weights_.warnings.push_back(fmt::format("model.{} is quantized, though no quantization config says so", module));
      return;
    }
    const bool excluded = is_excluded("model." + module, quant_.excluded);
    if (quantized == excluded) {
      weights_.warnings.push_back(fmt::format("model.{} is {}quantized, {} says otherwise", module, quantized ? "" : "not ", quant_.source));
    }
  }

  void load_head() {
    // The file may carry a copy of a tied head; where top level and text config disagree, the tensor's presence decides.
    if (config_.tie_word_embeddings || !has("lm_head.weight")) {
      if (!config_.tie_word_embeddings) problems_.push_back("lm_head.weight: missing, and tie_word_embeddings is false");
      if (take("lm_head.weight")) ++weights_.num_ignored;
      weights_.head = Bf16Weight{weights_.embed};
    } else {
      weights_.head = linear("lm_head", config_.vocab_size, config_.hidden_size);
    }
  }

  LayerWeights load_layer(int32_t index) {
    const LayerConfig& layer = config_.layers[static_cast<size_t>(index)];
    const std::string prefix = fmt::format("language_model.layers.{}.", index), attention = prefix + "self_attn.", mlp = prefix + "mlp.";
    const int64_t hidden = config_.hidden_size, inner = config_.intermediate_size;
    const int64_t q_size = int64_t{config_.num_attention_heads} * layer.head_dim, kv_size = int64_t{layer.num_kv_heads} * layer.head_dim;
    LayerWeights w;
    w.input_norm = plain(prefix + "input_layernorm.weight", {hidden});
    w.post_attention_norm = plain(prefix + "post_attention_layernorm.weight", {hidden});
    w.pre_feedforward_norm = plain(prefix + "pre_feedforward_layernorm.weight", {hidden});
    w.post_feedforward_norm = plain(prefix + "post_feedforward_layernorm.weight", {hidden});
    w.q_norm = plain(attention + "q_norm.weight", {layer.head_dim});
    w.k_norm = plain(attention + "k_norm.weight", {layer.head_dim});
    if (const Tensor scalar = plain(prefix + "layer_scalar", {1})) w.layer_scalar = to_float(*scalar.as<bf16>());
    w.q = linear(attention + "q_proj", q_size, hidden);
    w.k = linear(attention + "k_proj", kv_size, hidden);
    if (!layer.k_eq_v) w.v = linear(attention + "v_proj", kv_size, hidden);
    w.o = linear(attention + "o_proj", hidden, q_size);
    w.gate = linear(mlp + "gate_proj", inner, hidden);
    w.up = linear(mlp + "up_proj", inner, hidden);
    w.down = linear(mlp + "down_proj", hidden, inner);
    return w;
  }

  void media(const std::string& name, const Shape& shape) {
    if (const Tensor tensor = plain(name, shape)) weights_.media.emplace(name, tensor);
  }

  void load_vision() {
    if (!config_.vision) return;
    const VisionConfig& v = *config_.vision;
    const int64_t e = v.mm_embed_dim, patch = int64_t{v.model_patch_size} * v.model_patch_size * 3;
    for (const char* part : {".weight", ".bias"}) {
      media(std::string("vision_embedder.patch_ln1") + part, {patch});
      media(std::string("vision_embedder.patch_ln2") + part, {e});
      media(std::string("vision_embedder.pos_norm") + part, {e});
    }
    media("vision_embedder.patch_dense.weight", {e, patch});
    media("vision_embedder.patch_dense.bias", {e});
    media("vision_embedder.pos_embedding", {v.mm_posemb_size, 2, e});
    media("embed_vision.embedding_projection.weight", {config_.hidden_size, e});
  }

  void load_audio() {
    if (config_.audio) media("embed_audio.embedding_projection.weight", {config_.hidden_size, config_.audio->audio_embed_dim});
  }

  // Whatever nobody asked for: known and ignored, or a name that this program would serve as noise if it kept silent.
  void account_for_the_rest() {
    for (const auto& [canonical, found] : found_) {
      if (found.used) continue;
      const bool vision = canonical.starts_with("vision_embedder.") || canonical.starts_with("embed_vision.");
      const bool switched_off = (vision && !config_.vision) || (canonical.starts_with("embed_audio.") && !config_.audio);
      if (is_ignored(canonical) || switched_off) {
        ++weights_.num_ignored;
        weights_.num_kv_scales += is_projection_kv_scale(canonical);
      } else {
        complain(found, "unknown tensor");
      }
    }
  }

  [[noreturn]] void raise_problems() {
    constexpr size_t kShown = 20;
    std::string text;
    for (size_t i = 0; i < problems_.size() && i < kShown; ++i) text += (i ? "; " : "") + problems_[i];
    if (problems_.size() > kShown) text += fmt::format("; and {} more", problems_.size() - kShown);
    raise(ErrorCode::corrupt, "{}: {} tensor{} do{} not fit config.json: {}", folder_.string(), problems_.size(), problems_.size() == 1 ? "" : "s",
          problems_.size() == 1 ? "es" : "", text);
  }

  const ModelConfig& config_;
  const QuantConfig& quant_;
  std::filesystem::path folder_;
  ModelWeights weights_;
  std::map<std::string, Found> found_;
  std::vector<std::string> problems_;
};

ModelWeights ModelWeights::load(const std::filesystem::path& folder, const ModelConfig& config, const QuantConfig& quant) {
  return WeightLoader(folder, config, quant).run();
}

int64_t ModelWeights::parameter_count() const {
  const auto linear = [](const LinearWeight& weight) {
    const LinearShape shape = shape_of(weight);
    return shape.out_features * shape.in_features;
  };
  int64_t count = embed.count() + final_norm.count();
  const auto* plain_head = std::get_if<Bf16Weight>(&head);
  if (!plain_head || plain_head->weight.data != embed.data) count += linear(head);
  for (const LayerWeights& w : layers) {
    for (const Tensor& t : {w.input_norm, w.post_attention_norm, w.pre_feedforward_norm, w.post_feedforward_norm, w.q_norm, w.k_norm}) count += t.count();
    for (const LinearWeight* l : {&w.q, &w.k, &w.o, &w.gate, &w.up, &w.down}) count += linear(*l);
    if (w.v) count += linear(*w.v);
    count += 1;
  }
  for (const auto& [name, tensor] : media) count += tensor.count();
  return count;
}
}  // namespace nibble
