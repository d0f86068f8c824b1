// The weights of a checkpoint, by role: every tensor found, checked against the config, and named if it is wrong.
//
// The format of a linear follows from its tensors (U8 with weight_scale and weight_scale_2: NVFP4; F8_E4M3 with weight_scale: FP8 128x128;
// BF16, F16 or F32 alone: plain), so mixed folders load. Weights are views of the mapped files; only F16 and F32 ones are copied, to BF16.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/tensor.h"
#include "formats/model_config.h"
#include "formats/quant_config.h"
#include "formats/safetensors.h"
#include "kernels/linear.h"

namespace nibble {
struct LayerWeights {
  Tensor input_norm, post_attention_norm, pre_feedforward_norm, post_feedforward_norm;  // [hidden] bf16
  Tensor q_norm, k_norm;                                                                // [head_dim] bf16
  float layer_scalar = 1.0f;
  LinearWeight q, k, o, gate, up, down;
  std::optional<LinearWeight> v;  // absent where V is made from k_proj
};

struct FreeMemory {
  void operator()(void* p) const noexcept { std::free(p); }
};
using HostMemory = std::unique_ptr<std::byte, FreeMemory>;  // uninitialized, from malloc's family

// Owns the memory that the tensors look at.
class ModelWeights {
 public:
  Tensor embed;                      // [vocab, hidden] bf16
  LinearWeight head;                 // [vocab, hidden]; the embedding itself when tied
  bool head_is_tied = true;
  Tensor final_norm;                 // [hidden] bf16
  std::vector<LayerWeights> layers;
  std::map<std::string, Tensor> media;  // vision and audio embedders by canonical name, bf16; empty without them

  int32_t num_ignored = 0;           // tensors known and not used
  int32_t num_kv_scales = 0;         // of these, k_scale and v_scale of attention projections
  std::vector<std::string> warnings; // the quantization config contradicts the tensors; the tensors win

  // Raises corrupt: one error that names all tensors that are missing, unknown, misshapen or wrongly typed (the first 20, then a count).
  static ModelWeights load(const std::filesystem::path& folder, const ModelConfig& config, const QuantConfig& quant);

  // As load, but hands the complaints out, one line each. With any complaint the weights are good only to look at.
  static ModelWeights examine(const std::filesystem::path& folder, const ModelConfig& config, const QuantConfig& quant,
                              std::vector<std::string>& problems);

  // Random weights of the right shapes and formats, from the config alone: the same for the same seed on any number of threads. Scaled so
  // that activations stay near 1 and logits are sane. For benchmarks and tests. Raises out_of_memory before it touches any.
  static ModelWeights dummy(const ModelConfig& config, const QuantConfig& quant, uint64_t seed);

  // Shapes and formats without memory: what the config alone says about sizes. Every data pointer is null.
  static ModelWeights outline(const ModelConfig& config, const QuantConfig& quant);

  int64_t parameter_count() const;

 private:
  friend class CheckpointSource;
  friend class DummySource;
  friend struct AssistantWeights;
  TensorFiles files_;
  std::vector<HostMemory> owned_;
};

// The weights of an assistant (see assistant.h): a text decoder without k_proj, v_proj and k_norm, and two projections.
struct AssistantWeights {
  ModelWeights decoder;  // embed is its output head alone
  LinearWeight pre_projection;   // [hidden, 2 * backbone hidden]
  LinearWeight post_projection;  // [backbone hidden, hidden]

  static AssistantWeights load(const std::filesystem::path& folder, const AssistantConfig& config);
  static AssistantWeights dummy(const AssistantConfig& config, uint64_t seed);
};

// What a part of the model holds: a row of a size table.
struct WeightGroup {
  std::string name;    // "embedding", "attention", "MLP", "head", "norms", "vision", "audio"
  std::string format;  // "BF16", "NVFP4", "FP8 128x128"
  int64_t parameters = 0;
  int64_t bytes = 0;   // with all scales
};
std::vector<WeightGroup> weight_groups(const ModelWeights& weights);
}  // namespace nibble
