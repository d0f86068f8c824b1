// The list of a model's weights, in one place: names and shapes follow from the config, the source says where the bytes come from.
#pragma once

#include <string>

#include "model/weights.h"

namespace nibble {
class WeightSource {
 public:
  virtual ~WeightSource() = default;
  // A tensor in bf16, by canonical name. A source that has a complaint keeps it and returns an empty tensor.
  virtual Tensor plain(const std::string& name, const Shape& shape) = 0;
  // A linear layer [out_features, in_features], in whichever format; `module` is its canonical name without `.weight`.
  virtual LinearWeight linear(const std::string& module, int64_t out_features, int64_t in_features) = 0;
};

// Asks the source for every weight that the config calls for: text model, head unless tied, vision and audio embedders where configured.
void assemble_weights(const ModelConfig& config, WeightSource& source, ModelWeights& weights);

void assemble_assistant(const AssistantConfig& config, WeightSource& source, AssistantWeights& weights);

// Whether the quantization config means this linear to be quantized: not excluded, and its inputs come in whole blocks.
bool is_meant_quantized(const QuantConfig& quant, const std::string& module, int64_t in_features);
}  // namespace nibble
