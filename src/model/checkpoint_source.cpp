// Weights out of the files of a checkpoint, with every complaint collected on the way.
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/number_formats.h"
#include "model/weight_names.h"
#include "model/weight_source.h"

namespace nibble {
namespace {
std::string text_of(const Shape& shape) {
  std::string out = "[";
  for (int i = 0; i < shape.rank; ++i) out += fmt::format("{}{}", i ? ", " : "", shape[i]);
  return out + "]";
}

// "language_model.layers.7.mlp.up_proj.weight" -> "layer 7 mlp.up_proj.weight"
std::string short_name(std::string_view canonical) {
  const std::string_view text = "language_model.", layers = "layers.";
  if (canonical.starts_with(text)) canonical.remove_prefix(text.size());
  if (!canonical.starts_with(layers)) return std::string(canonical);
  canonical.remove_prefix(layers.size());
  const size_t dot = canonical.find('.');
  if (dot == std::string_view::npos) return std::string(canonical);
  return fmt::format("layer {} {}", canonical.substr(0, dot), canonical.substr(dot + 1));
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

bool is_positive(float value) { return std::isfinite(value) && value > 0; }
}  // namespace

class CheckpointSource final : public WeightSource {
 public:
  CheckpointSource(const std::filesystem::path& folder, const ModelConfig& config, const QuantConfig& quant, ModelWeights& weights,
                   std::vector<std::string>& problems)
      : config_(config), quant_(quant), weights_(weights), problems_(problems) {
    weights_.files_ = TensorFiles::open(folder);
    for (const auto& [name, stored] : weights_.files_.tensors()) {
      const std::string canonical = canonical_name(name);
      const auto [at, fresh] = found_.emplace(canonical, Found{name, canonical, &stored});
      if (!fresh) problems_.push_back(fmt::format("{} and {} are one tensor in two layouts", at->second.name, name));
    }
  }

  Tensor plain(const std::string& name, const Shape& shape) override {
    const Found* found = expect(name, shape);
    if (!found) return {};
    const Tensor& tensor = found->stored->tensor;
    if (tensor.dtype == DType::bf16) return aligned(tensor);
    if (tensor.dtype == DType::f16 || tensor.dtype == DType::f32) return converted(*found);
    complain(*found, "dtype {}, expected BF16", name_of(tensor.dtype));
    return {};
  }

  LinearWeight linear(const std::string& module, int64_t n, int64_t k) override {
    const auto at = found_.find(module + ".weight");
    const DType dtype = at == found_.end() ? DType::bf16 : at->second.stored->tensor.dtype;
    // A missing weight is expected in the format that the configuration calls for.
    const bool meant = is_meant_quantized(quant_, module, k), absent = at == found_.end();
    if (dtype == DType::u8 || (absent && meant && quant_.algo == QuantAlgo::nvfp4)) return checked(module, nvfp4(module, n, k), meant);
    if (dtype == DType::e4m3 || (absent && meant && quant_.algo == QuantAlgo::fp8_block)) return checked(module, fp8_block(module, n, k), meant);
    const Bf16Weight weight{plain(module + ".weight", {n, k})};
    for (const char* scale : {".weight_scale", ".weight_scale_2", ".input_scale", ".weight_scale_inv"}) {
      if (const Found* found = take(module + scale)) complain(*found, "a scale beside a weight of dtype {}", name_of(dtype));
    }
    return checked(module, weight, meant);
  }

  // Whatever nobody asked for: known and ignored, or a name that would be served as noise if this kept silent.
  void account_for_the_rest() {
    for (const auto& [canonical, found] : found_) {
      if (found.used) continue;
      const bool vision = canonical.starts_with("vision_embedder.") || canonical.starts_with("embed_vision.");
      const bool switched_off = (vision && !config_.vision) || (canonical.starts_with("embed_audio.") && !config_.audio);
      const bool tied_copy = canonical == "lm_head.weight" && config_.tie_word_embeddings;
      if (is_ignored(canonical) || switched_off || tied_copy) {
        ++weights_.num_ignored;
        weights_.num_kv_scales += is_projection_kv_scale(canonical);
      } else {
        problems_.push_back(fmt::format("{}: unknown tensor ({})", found.name, found.stored->file));
      }
    }
  }

 private:
  struct Found {
    std::string name;       // as on disk
    std::string canonical;
    const StoredTensor* stored;
    bool used = false;
  };

  Found* take(const std::string& name) {
    const auto at = found_.find(name);
    if (at == found_.end()) return nullptr;
    at->second.used = true;
    return &at->second;
  }

  template <typename... Args>
  void complain(const Found& found, fmt::format_string<Args...> format, Args&&... args) {
    problems_.push_back(fmt::format("{}: {} ({})", short_name(found.canonical), fmt::format(format, std::forward<Args>(args)...), found.stored->file));
  }

  const Found* expect(const std::string& name, const Shape& shape) {
    const Found* found = take(name);
    if (!found) {
      problems_.push_back(fmt::format("{}: missing, expected shape {}", short_name(name), text_of(shape)));
      return nullptr;
    }
    if (found->stored->tensor.shape == shape) return found;
    complain(*found, "shape {}, expected {}", text_of(found->stored->tensor.shape), text_of(shape));
    return nullptr;
  }

  const Found* expect(const std::string& name, const Shape& shape, DType dtype) {
    const Found* found = expect(name, shape);
    if (!found || found->stored->tensor.dtype == dtype) return found;
    complain(*found, "dtype {}, expected {}", name_of(found->stored->tensor.dtype), name_of(dtype));
    return nullptr;
  }

  std::byte* allocate(int64_t bytes) {
    HostMemory memory(static_cast<std::byte*>(std::malloc(static_cast<size_t>(std::max<int64_t>(bytes, 1)))));
    if (!memory) raise(ErrorCode::out_of_memory, "cannot allocate {} bytes for a converted weight", bytes);
    weights_.owned_.push_back(std::move(memory));
    return weights_.owned_.back().get();
  }

  // A header of odd length puts the data at odd addresses; kernels want whole elements at their own alignment.
  Tensor aligned(const Tensor& tensor) {
    if (reinterpret_cast<uintptr_t>(tensor.data) % static_cast<uintptr_t>(size_of(tensor.dtype)) == 0) return tensor;
    std::byte* copy = allocate(tensor.bytes());
    std::memcpy(copy, tensor.data, static_cast<size_t>(tensor.bytes()));
    return {copy, tensor.dtype, tensor.shape};
  }

  // F16 or F32 to BF16; a value that is not finite there is a complaint.
  Tensor converted(const Found& found) {
    const Tensor source = aligned(found.stored->tensor);
    const int64_t count = source.count();
    bf16* out = reinterpret_cast<bf16*>(allocate(count * 2));
    int64_t bad = 0;
    for (int64_t i = 0; i < count; ++i) {
      out[i] = to_bf16(source.dtype == DType::f32 ? source.as<float>()[i] : to_float(source.as<f16>()[i]));
      bad += !std::isfinite(to_float(out[i]));
    }
    if (bad > 0) complain(found, "{} of {} {} values are not finite in BF16", bad, count, name_of(source.dtype));
    return {out, DType::bf16, source.shape};
  }

  // One F32, stored as [] or [1], that must be positive and finite. nullopt after a complaint.
  std::optional<float> scale(const std::string& name) {
    const Found* found = take(name);
    if (!found) {
      problems_.push_back(fmt::format("{}: missing, expected one F32", short_name(name)));
      return std::nullopt;
    }
    const Tensor& tensor = found->stored->tensor;
    if (tensor.count() != 1 || tensor.dtype != DType::f32) {
      complain(*found, "dtype {} of shape {}, expected one F32", name_of(tensor.dtype), text_of(tensor.shape));
      return std::nullopt;
    }
    float value;
    std::memcpy(&value, tensor.data, sizeof value);
    if (is_positive(value)) return value;
    complain(*found, "is {}, expected a positive finite number", value);
    return std::nullopt;
  }

  LinearWeight nvfp4(const std::string& module, int64_t n, int64_t k) {
    Nvfp4Weight weight;
    if (k % kNvfp4Block != 0) problems_.push_back(fmt::format("{}: NVFP4 wants inputs in blocks of 16, config.json gives it {}", short_name(module), k));
    if (const Found* codes = expect(module + ".weight", {n, k / 2})) weight.codes = codes->stored->tensor;
    if (const Found* scales = expect(module + ".weight_scale", {n, k / kNvfp4Block}, DType::e4m3)) {
      weight.block_scales = scales->stored->tensor;
      check_block_scales(*scales);
    }
    weight.tensor_scale = scale(module + ".weight_scale_2").value_or(1.0f);
    if (found_.contains(module + ".input_scale")) weight.input_scale = scale(module + ".input_scale").value_or(0.0f);
    return weight;
  }

  void check_block_scales(const Found& found) {
    const uint8_t* codes = found.stored->tensor.as<uint8_t>();
    // Branch-free so that it vectorizes: half a gigabyte of scales in the 12B.
    uint8_t nan = 0;
    for (int64_t i = 0, n = found.stored->tensor.count(); i < n; ++i) nan |= static_cast<uint8_t>((codes[i] & 0x7f) == 0x7f);
    if (nan) complain(found, "holds NaN block scales (0x7F or 0xFF)");
  }

  LinearWeight fp8_block(const std::string& module, int64_t n, int64_t k) {
    Fp8BlockWeight weight;
    if (const Found* codes = expect(module + ".weight", {n, k})) weight.codes = codes->stored->tensor;
    const int64_t rows = ceil_div(n, kFp8Block), cols = ceil_div(k, kFp8Block);
    const bool inverse_name = !found_.contains(module + ".weight_scale") && found_.contains(module + ".weight_scale_inv");
    const Found* found = take(module + (inverse_name ? ".weight_scale_inv" : ".weight_scale"));
    if (!found) {
      problems_.push_back(fmt::format("{}.weight_scale: missing, expected shape [{}, 1, {}, 1]", short_name(module), rows, cols));
      return weight;
    }
    const Tensor& stored = found->stored->tensor;
    if (stored.shape != Shape{rows, 1, cols, 1} && stored.shape != Shape{rows, cols}) {
      complain(*found, "shape {}, expected [{}, 1, {}, 1] or [{}, {}]", text_of(stored.shape), rows, cols, rows, cols);
    } else if (stored.dtype != DType::f32) {
      complain(*found, "dtype {}, expected F32", name_of(stored.dtype));
    } else {
      weight.scales = {aligned(stored).data, DType::f32, {rows, cols}};
      const float* scales = weight.scales.as<float>();
      for (int64_t i = 0; i < stored.count(); ++i) {
        if (is_positive(scales[i])) continue;
        complain(*found, "holds {}, expected positive finite scales", scales[i]);
        break;
      }
    }
    return weight;
  }

  LinearWeight checked(const std::string& module, LinearWeight weight, bool meant_quantized) {
    const bool quantized = !std::holds_alternative<Bf16Weight>(weight);
    if (quantized == meant_quantized) return weight;
    const std::string what = fmt::format("{} is {}quantized", short_name(module), quantized ? "" : "not ");
    weights_.warnings.push_back(quant_.algo == QuantAlgo::none ? what + ", though no quantization config says so"
                                                               : fmt::format("{}, {} says otherwise", what, quant_.source));
    return weight;
  }

  const ModelConfig& config_;
  const QuantConfig& quant_;
  ModelWeights& weights_;
  std::vector<std::string>& problems_;
  std::map<std::string, Found> found_;  // by canonical name
};

ModelWeights ModelWeights::examine(const std::filesystem::path& folder, const ModelConfig& config, const QuantConfig& quant,
                                   std::vector<std::string>& problems) {
  ModelWeights weights;
  CheckpointSource source(folder, config, quant, weights, problems);
  assemble_weights(config, source, weights);
  source.account_for_the_rest();
  return weights;
}

namespace {
void refuse(const std::filesystem::path& folder, const std::vector<std::string>& problems) {
  if (problems.empty()) return;
  constexpr size_t kShown = 20;
  std::string text;
  for (size_t i = 0; i < problems.size() && i < kShown; ++i) text += (i ? "; " : "") + problems[i];
  if (problems.size() > kShown) text += fmt::format("; and {} more", problems.size() - kShown);
  const bool one = problems.size() == 1;
  raise(ErrorCode::corrupt, "{}: {} {} not fit config.json: {}", folder.string(), problems.size(), one ? "tensor does" : "tensors do", text);
}
}  // namespace

ModelWeights ModelWeights::load(const std::filesystem::path& folder, const ModelConfig& config, const QuantConfig& quant) {
  std::vector<std::string> problems;
  ModelWeights weights = examine(folder, config, quant, problems);
  weights.files_.will_need();
  refuse(folder, problems);
  return weights;
}

AssistantWeights AssistantWeights::load(const std::filesystem::path& folder, const AssistantConfig& config) {
  std::vector<std::string> problems;
  AssistantWeights weights;
  const QuantConfig plain;
  CheckpointSource source(folder, config.text, plain, weights.decoder, problems);
  assemble_assistant(config, source, weights);
  source.account_for_the_rest();
  weights.decoder.files_.will_need();
  refuse(folder, problems);
  return weights;
}
}  // namespace nibble
