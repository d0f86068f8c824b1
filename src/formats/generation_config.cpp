#include "formats/generation_config.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "base/file_io.h"
#include "formats/json_fields.h"

namespace nibble {
GenerationConfig parse_generation_config(std::string_view text, const ModelConfig& model, std::string_view source) {
  GenerationConfig config;
  std::set<int32_t> eos(model.eos_token_ids.begin(), model.eos_token_ids.end()), suppress;
  if (!text.empty()) {
    const nlohmann::json root = parse_json_object(text, source);
    const JsonFields fields(root, source);
    for (const int32_t id : fields.integers("eos_token_id")) eos.insert(id);
    for (const int32_t id : fields.integers("suppress_tokens")) suppress.insert(id);
    const auto number = [&](const char* key) -> std::optional<float> {
      const auto value = fields.number(key);
      return value ? std::optional(static_cast<float>(*value)) : std::nullopt;
    };
    config.temperature = number("temperature");
    config.top_p = number("top_p");
    config.min_p = number("min_p");
    config.repetition_penalty = number("repetition_penalty");
    const int64_t top_k = fields.integer("top_k", -1).value_or(0);
    if (top_k > 0) config.top_k = static_cast<int32_t>(top_k);
  }
  if (suppress.empty()) {
    for (const int32_t id : {model.eoi_token_id, model.eoa_token_id}) {
      if (id >= 0) suppress.insert(id);
    }
  }
  const auto in_vocabulary = [&](int32_t id) { return id >= 0 && id < model.vocab_size; };
  std::copy_if(eos.begin(), eos.end(), std::back_inserter(config.eos_token_ids), in_vocabulary);
  std::copy_if(suppress.begin(), suppress.end(), std::back_inserter(config.suppress_tokens), in_vocabulary);
  return config;
}

GenerationConfig read_generation_config(const std::filesystem::path& folder, const ModelConfig& model) {
  const auto path = folder / "generation_config.json";
  return parse_generation_config(std::filesystem::exists(path) ? read_file(path) : std::string(), model, path.string());
}
}  // namespace nibble
