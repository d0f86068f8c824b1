#include <algorithm>
#include <nlohmann/json.hpp>

#include "quant/quantize.h"

namespace nibble {
namespace {
using Json = nlohmann::ordered_json;

std::vector<std::string> excluded_modules(Recipe recipe, int num_layers) {
  std::vector<std::string> names{"lm_head", "model.embed_audio*", "model.embed_vision*"};
  if (recipe == Recipe::nvfp4_mlp_only) {
    for (int i = 0; i < num_layers; ++i) names.push_back("model.language_model.layers." + std::to_string(i) + ".self_attn*");
  }
  std::sort(names.begin(), names.end());
  return names;
}

const char* algo_name(Recipe recipe) { return recipe == Recipe::nvfp4_mlp_only ? "NVFP4" : "fp8_pb_wo"; }
Json producer(const std::string& version) { return {{"name", "nibble"}, {"version", version}}; }
}  // namespace

std::string quantized_config_json(const std::string& config_json, Recipe recipe, bool kv_cache_fp8, int num_layers, const std::string& version) {
  Json config = Json::parse(config_json);
  if (recipe != Recipe::none) {
    Json quant = Json::object();
    if (recipe == Recipe::nvfp4_mlp_only) {
      const Json fp4{{"dynamic", false}, {"num_bits", 4}, {"type", "float"}, {"group_size", 16}};
      quant["config_groups"]["group_0"] = {{"input_activations", fp4}, {"weights", fp4}, {"targets", Json::array({"Linear"})}};
    }
    quant["ignore"] = excluded_modules(recipe, num_layers);
    quant["quant_algo"] = algo_name(recipe);
    if (kv_cache_fp8) quant["kv_cache_scheme"] = {{"dynamic", false}, {"num_bits", 8}, {"type", "float"}};
    quant["producer"] = producer(version);
    quant["quant_method"] = "modelopt";
    config["quantization_config"] = quant;
  }
  return config.dump(4) + "\n";
}

std::string hf_quant_config_json(Recipe recipe, bool kv_cache_fp8, int num_layers, const std::string& version) {
  Json quant{{"quant_algo", algo_name(recipe)}, {"kv_cache_quant_algo", nullptr}};
  if (kv_cache_fp8) quant["kv_cache_quant_algo"] = "FP8";
  if (recipe == Recipe::nvfp4_mlp_only) quant["group_size"] = 16;
  quant["exclude_modules"] = excluded_modules(recipe, num_layers);
  return Json{{"producer", producer(version)}, {"quantization", quant}}.dump(4) + "\n";
}
}  // namespace nibble
