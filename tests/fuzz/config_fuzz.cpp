// rooms: formats
// Any text as config.json, as either quantization config and as generation_config.json: read, or refused with an Error; what was read is sane.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "base/error.h"
#include "formats/generation_config.h"
#include "formats/model_config.h"
#include "formats/quant_config.h"

namespace {
template <typename Read>
void attempt(const Read& read) {
  try {
    read();
  } catch (const nibble::Error& error) {
    if (error.message.empty()) std::abort();
  }
}

void require(bool holds) {
  if (!holds) std::abort();
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  nibble::ModelConfig model;
  model.vocab_size = 1000;
  attempt([&] {
    const nibble::ModelConfig config = nibble::parse_model_config(text, "config.json");
    require(config.vocab_size > 0 && config.hidden_size > 0 && !config.layers.empty());
    for (const nibble::LayerConfig& layer : config.layers) {
      require(layer.head_dim > 0 && layer.num_kv_heads > 0 && config.num_attention_heads % layer.num_kv_heads == 0);
    }
    model = config;
  });
  attempt([&] {
    const nibble::QuantConfig quant = nibble::parse_quant_config(text, "", "folder");
    nibble::is_excluded("model.language_model.layers.10.self_attn.q_proj", quant.excluded);
    nibble::check_quantization_flag("modelopt_fp4", quant);
  });
  attempt([&] { nibble::is_excluded("model.embed_vision.patch_dense", nibble::parse_quant_config("", text, "folder").excluded); });
  attempt([&] {
    const nibble::GenerationConfig generation = nibble::parse_generation_config(text, model, "generation_config.json");
    for (const int32_t id : generation.suppress_tokens) require(id >= 0 && id < model.vocab_size);
  });
  return 0;
}
