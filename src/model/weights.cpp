#include "model/weights.h"

#include "base/error.h"
#include "model/weight_source.h"

namespace nibble {
namespace {
// Answers with shapes alone.
class OutlineSource final : public WeightSource {
 public:
  explicit OutlineSource(const QuantConfig& quant) : quant_(quant) {}

  Tensor plain(const std::string&, const Shape& shape) override { return {nullptr, DType::bf16, shape}; }

  LinearWeight linear(const std::string& module, int64_t n, int64_t k) override {
    if (!is_meant_quantized(quant_, module, k)) return Bf16Weight{{nullptr, DType::bf16, {n, k}}};
    if (quant_.algo == QuantAlgo::nvfp4) {
      return Nvfp4Weight{.codes = {nullptr, DType::u8, {n, k / 2}},
                         .block_scales = {nullptr, DType::e4m3, {n, k / kNvfp4Block}},
                         .tensor_scale = 1.0f,
                         .input_scale = 1.0f};
    }
    const int64_t rows = (n + kFp8Block - 1) / kFp8Block, cols = (k + kFp8Block - 1) / kFp8Block;
    return Fp8BlockWeight{.codes = {nullptr, DType::e4m3, {n, k}}, .scales = {nullptr, DType::f32, {rows, cols}}};
  }

 private:
  const QuantConfig& quant_;
};

struct Size {
  std::string_view format;
  int64_t parameters, bytes;
};

Size size_of_linear(const LinearWeight& weight) {
  if (const auto* w = std::get_if<Nvfp4Weight>(&weight)) {
    const int64_t scalars = w->input_scale > 0 ? 8 : 4;
    return {name_of(QuantAlgo::nvfp4), w->codes.count() * 2, w->codes.bytes() + w->block_scales.bytes() + scalars};
  }
  if (const auto* w = std::get_if<Fp8BlockWeight>(&weight)) return {name_of(QuantAlgo::fp8_block), w->codes.count(), w->codes.bytes() + w->scales.bytes()};
  const Tensor& plain = std::get<Bf16Weight>(weight).weight;
  return {name_of(QuantAlgo::none), plain.count(), plain.bytes()};
}
}  // namespace

ModelWeights ModelWeights::outline(const ModelConfig& config, const QuantConfig& quant) {
  ModelWeights weights;
  OutlineSource source(quant);
  assemble_weights(config, source, weights);
  return weights;
}

std::vector<WeightGroup> weight_groups(const ModelWeights& weights) {
  std::vector<WeightGroup> groups;
  const auto add = [&](std::string_view name, const Size& size) {
    for (WeightGroup& group : groups) {
      if (group.name == name && group.format == size.format) {
        group.parameters += size.parameters;
        group.bytes += size.bytes;
        return;
      }
    }
    groups.push_back({std::string(name), std::string(size.format), size.parameters, size.bytes});
  };
  const auto add_plain = [&](std::string_view name, const Tensor& tensor) {
    if (tensor.shape.rank > 0) add(name, {name_of(QuantAlgo::none), tensor.count(), tensor.count() * size_of(DType::bf16)});
  };
  add_plain("embedding", weights.embed);
  if (!weights.head_is_tied) add("head", size_of_linear(weights.head));
  for (const LayerWeights& w : weights.layers) {
    for (const LinearWeight* linear : {&w.q, &w.k, &w.o}) add("attention", size_of_linear(*linear));
    if (w.v) add("attention", size_of_linear(*w.v));
    for (const LinearWeight* linear : {&w.gate, &w.up, &w.down}) add("MLP", size_of_linear(*linear));
  }
  for (const LayerWeights& w : weights.layers) {
    for (const Tensor& t : {w.input_norm, w.post_attention_norm, w.pre_feedforward_norm, w.post_feedforward_norm, w.q_norm, w.k_norm}) add_plain("norms", t);
    add("norms", {name_of(QuantAlgo::none), 1, 2});  // layer_scalar
  }
  add_plain("norms", weights.final_norm);
  for (const auto& [name, tensor] : weights.media) add_plain(name.starts_with("embed_audio.") ? "audio" : "vision", tensor);
  return groups;
}

int64_t ModelWeights::parameter_count() const {
  int64_t count = 0;
  for (const WeightGroup& group : weight_groups(*this)) count += group.parameters;
  return count;
}
}  // namespace nibble
