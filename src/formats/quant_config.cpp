#include "formats/quant_config.h"

#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/error.h"
#include "formats/json_fields.h"

namespace nibble {
using nlohmann::json;

namespace {
std::string upper(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  return text;
}

QuantAlgo algo_of(const std::string& name, std::string_view source) {
  const std::string key = upper(name);
  if (key == "NVFP4") return QuantAlgo::nvfp4;
  if (key == "FP8_PB_WO" || key == "FP8_BLOCK_SCALES") return QuantAlgo::fp8_block;
  raise(ErrorCode::unsupported, "{}: quant_algo {} is not supported; supported are NVFP4 and FP8_PB_WO (128x128 blocks)", source, name);
}

void read_group_size(const JsonFields& fields, const QuantConfig& config) {
  std::optional<int64_t> group = fields.integer("group_size");
  if (const auto groups = fields.object("config_groups"); !group && groups) {
    for (const auto& [name, value] : groups->raw().items()) {
      if (!value.is_object()) continue;
      const auto weights = JsonFields(value, config.source, "config_groups." + name).object("weights");
      if (weights && !group) group = weights->integer("group_size");
    }
  }
  if (config.algo == QuantAlgo::nvfp4 && group.value_or(16) != 16) {
    raise(ErrorCode::unsupported, "{}: NVFP4 group_size is {}, only 16 is supported", config.source, *group);
  }
}

bool says_fp8_kv(const JsonFields& fields) {
  const json& raw = fields.raw();
  if (fields.has("kv_cache_scheme")) {
    const json& scheme = raw["kv_cache_scheme"];
    if (scheme.is_string()) return upper(scheme.get<std::string>()) == "FP8";
    if (scheme.is_object()) {
      const auto object = *fields.object("kv_cache_scheme");
      return object.integer("num_bits").value_or(0) == 8 && object.string("type").value_or("") == "float";
    }
  }
  return upper(fields.string("kv_cache_quant_algo").value_or("")) == "FP8";
}

// Flat: quant_algo at the top; nested: under "quantization". nullopt: no algorithm named.
std::optional<QuantConfig> read(const JsonFields& top, const std::string& source) {
  const auto nested = top.object("quantization");
  const JsonFields& fields = nested && !top.has("quant_algo") ? *nested : top;
  const auto name = fields.string("quant_algo");
  const auto method = top.string("quant_method");
  if (!name && method) raise(ErrorCode::unsupported, "{}: quant_method {} without a quant_algo is not supported, only modelopt's NVFP4 and FP8_PB_WO", source, *method);
  if (!name) return std::nullopt;
  QuantConfig config{.algo = algo_of(*name, source), .algo_name = *name, .kv_cache_fp8 = says_fp8_kv(fields), .excluded = {}, .source = source};
  read_group_size(fields, config);
  for (const char* key : {"ignore", "exclude_modules"}) {
    if (!fields.has(key)) continue;
    const json& list = fields.raw()[key];
    if (!list.is_array()) fields.bad(key, "an array of patterns");
    for (const json& pattern : list) {
      if (!pattern.is_string()) fields.bad(key, "an array of patterns");
      config.excluded.push_back(pattern.get<std::string>());
    }
  }
  return config;
}

// Linear in pattern times text: one remembered star.
bool glob_matches(std::string_view pattern, std::string_view text) {
  size_t p = 0, t = 0, star = std::string_view::npos, resume = 0;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      resume = t;
    } else if (p < pattern.size() && pattern[p] == text[t]) {
      ++p;
      ++t;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      t = ++resume;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

bool matches(std::string_view pattern, std::string_view name) {
  if (glob_matches(pattern, name)) return true;
  const bool plain = pattern.find('*') == std::string_view::npos;
  return plain && name.size() > pattern.size() && name.starts_with(pattern) && name[pattern.size()] == '.';
}
}  // namespace

std::string_view name_of(QuantAlgo algo) {
  switch (algo) {
    case QuantAlgo::none: return "BF16";
    case QuantAlgo::nvfp4: return "NVFP4";
    case QuantAlgo::fp8_block: return "FP8 128x128";
  }
  return "?";
}

QuantConfig parse_quant_config(std::string_view config_json, std::string_view hf_json, std::string_view folder) {
  std::optional<QuantConfig> inner, outer;
  const std::string config_source = fmt::format("{}/config.json", folder), hf_source = fmt::format("{}/hf_quant_config.json", folder);
  if (!config_json.empty()) {
    const json root = parse_json_object(config_json, config_source);
    if (const auto section = JsonFields(root, config_source).object("quantization_config")) inner = read(*section, config_source);
  }
  if (!hf_json.empty()) {
    const json root = parse_json_object(hf_json, hf_source);
    outer = read(JsonFields(root, hf_source), hf_source);
  }
  if (inner && outer && inner->algo != outer->algo) {
    raise(ErrorCode::corrupt, "{} says quant_algo {}, {} says {}: one of them does not belong to these weights", config_source, inner->algo_name, hf_source,
          outer->algo_name);
  }
  if (inner) return *inner;
  return outer.value_or(QuantConfig{});
}

bool is_excluded(std::string_view module, const std::vector<std::string>& patterns) {
  const auto without = [](std::string_view name, std::string_view prefix) { return name.starts_with(prefix) ? name.substr(prefix.size()) : name; };
  std::vector<std::string> names{std::string(module)};
  // A vision tensor has two names over time; a pattern for either covers it.
  const std::string_view bare = without(module, "model.");
  if (bare.starts_with("vision_embedder")) names.push_back("model.embed_vision" + std::string(bare.substr(15)));
  if (bare.starts_with("embed_vision")) names.push_back("model.vision_embedder" + std::string(bare.substr(12)));
  for (size_t i = 0, n = names.size(); i < n; ++i) {
    names.emplace_back(without(names[i], "model."));
    names.emplace_back(without(without(names[i], "model."), "language_model."));
  }
  for (const std::string& pattern : patterns) {
    for (const std::string& name : names) {
      if (matches(pattern, name)) return true;
    }
    for (size_t begin = 0; begin <= module.size();) {
      const size_t end = std::min(module.find('.', begin), module.size());
      if (glob_matches(pattern, module.substr(begin, end - begin))) return true;
      begin = end + 1;
    }
  }
  return false;
}

void check_quantization_flag(std::string_view flag, const QuantConfig& config) {
  if (flag.empty()) return;
  const bool fits = (flag == "unquant" && config.algo == QuantAlgo::none) || (flag == "modelopt_fp4" && config.algo == QuantAlgo::nvfp4) ||
                    (flag == "modelopt_fp8" && config.algo == QuantAlgo::fp8_block) || (flag == "modelopt" && config.algo != QuantAlgo::none);
  if (fits) return;
  const std::string found = config.algo == QuantAlgo::none ? "the checkpoint is not quantized"
                                                           : fmt::format("{} says quant_algo {}", config.source, config.algo_name);
  raise(ErrorCode::invalid_argument, "--quantization {}: {}; leave the flag out to take what the checkpoint says", flag, found);
}
}  // namespace nibble
