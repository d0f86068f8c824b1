#include "server/generation_fields.h"

#include <charconv>
#include <nlohmann/json.hpp>

namespace nibble {
namespace {
constexpr size_t kMaxStops = 32;

std::vector<std::string> read_stops(const Fields& fields) {
  std::vector<std::string> stops;
  const Json* value = fields.find("stop");
  if (!value) return stops;
  if (value->is_string()) return {value->get<std::string>()};
  if (!value->is_array()) fields.reject("stop", "'stop' must be a string or an array of strings");
  if (value->size() > kMaxStops) fields.reject("stop", fmt::format("'stop' holds {} strings, at most {} are allowed", value->size(), kMaxStops));
  for (size_t i = 0; i < value->size(); ++i) {
    if (!(*value)[i].is_string()) fields.reject(fmt::format("stop[{}]", i), "'stop' must be a string or an array of strings");
    stops.push_back((*value)[i].get<std::string>());
  }
  return stops;
}

void read_logit_bias(const Fields& fields, int32_t vocab_size, SamplingParams& sampling) {
  const Json* value = fields.find("logit_bias");
  if (!value) return;
  if (!value->is_object()) fields.reject("logit_bias", "'logit_bias' must be an object from token ids to numbers");
  for (const auto& [key, bias] : value->items()) {
    int32_t id = -1;
    const auto [end, status] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (status != std::errc() || end != key.data() + key.size() || id < 0 || id >= vocab_size) {
      fields.reject("logit_bias", fmt::format("'logit_bias' has the key '{}', wanted a token id from 0 to {}", key, vocab_size - 1));
    }
    if (!bias.is_number() || bias.get<double>() < -100 || bias.get<double>() > 100) fields.reject("logit_bias", "'logit_bias' values must be numbers between -100 and 100");
    sampling.logit_bias.emplace_back(id, bias.get<float>());
  }
}

bool is_truthy(const Json& value) {
  if (value.is_boolean()) return value.get<bool>();
  if (value.is_number()) return value.get<double>() != 0;
  return !value.empty();
}

void refuse_unsupported(const Fields& fields) {
  for (const char* key : {"stop_regex", "lora_path", "custom_logit_processor", "return_hidden_states", "watermark", "audio", "web_search_options", "functions", "function_call"}) {
    if (const Json* value = fields.find(key); value && is_truthy(*value)) fields.reject(key, fmt::format("'{}' is not supported", key));
  }
}
}  // namespace

GenerationFields read_generation_fields(const Fields& fields, const SamplingDefaults& defaults, int32_t vocab_size) {
  refuse_unsupported(fields);
  GenerationFields out;
  SamplingParams& s = out.sampling;
  s.temperature = static_cast<float>(fields.number("temperature", 0, 1e30).value_or(defaults.temperature));
  s.top_p = static_cast<float>(fields.number("top_p", 0, 1).value_or(defaults.top_p));
  if (s.top_p <= 0) fields.reject("top_p", "'top_p' must be greater than 0");
  s.top_k = static_cast<int32_t>(fields.integer("top_k", -1, INT32_MAX).value_or(defaults.top_k));
  if (s.top_k == 0) fields.reject("top_k", "'top_k' must be -1 (off) or at least 1");
  s.min_p = static_cast<float>(fields.number("min_p", 0, 1).value_or(defaults.min_p));
  s.repetition_penalty = static_cast<float>(fields.number("repetition_penalty", 0, 2).value_or(defaults.repetition_penalty));
  if (s.repetition_penalty <= 0) fields.reject("repetition_penalty", "'repetition_penalty' must be greater than 0");
  s.frequency_penalty = static_cast<float>(fields.number("frequency_penalty", -2, 2).value_or(0));
  s.presence_penalty = static_cast<float>(fields.number("presence_penalty", -2, 2).value_or(0));
  read_logit_bias(fields, vocab_size, s);
  if (const auto seed = fields.integer("seed", INT64_MIN, INT64_MAX)) {
    s.seed = static_cast<uint64_t>(*seed);
    out.seeded = true;
  }
  const auto completion = fields.integer("max_completion_tokens", 1, INT32_MAX), plain = fields.integer("max_tokens", 1, INT32_MAX);
  if (completion || plain) out.max_tokens = static_cast<int32_t>(completion ? *completion : *plain);
  out.min_tokens = static_cast<int32_t>(fields.integer("min_tokens", 0, INT32_MAX).value_or(0));
  if (out.max_tokens && out.min_tokens > *out.max_tokens) fields.reject("min_tokens", fmt::format("'min_tokens' is {}, more than max_tokens {}", out.min_tokens, *out.max_tokens));
  out.num_choices = static_cast<int32_t>(fields.integer("n", 1, 128).value_or(1));
  out.stop = read_stops(fields);
  out.stop_token_ids = fields.ids("stop_token_ids", vocab_size);
  out.ignore_eos = fields.boolean("ignore_eos").value_or(false);
  out.no_stop_trim = fields.boolean("no_stop_trim").value_or(false);
  out.skip_special_tokens = fields.boolean("skip_special_tokens").value_or(true);
  out.stream = fields.boolean("stream").value_or(false);
  if (const Json* options = fields.find("stream_options"); options) {
    const Fields stream_options(*options, fields.path("stream_options"));
    out.include_usage = stream_options.boolean("include_usage").value_or(false);
    out.continuous_usage = stream_options.boolean("continuous_usage_stats").value_or(false);
  }
  out.format = read_output_format(fields);
  out.model = fields.string("model").value_or("");
  out.rid = fields.string("rid").value_or("");
  out.cache_salt = fields.string("cache_salt").value_or("") + "\x1f" + fields.string("extra_key").value_or("");
  return out;
}
}  // namespace nibble
