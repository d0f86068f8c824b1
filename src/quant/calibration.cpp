#include "quant/calibration.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

#include "base/clock.h"
#include "base/error.h"
#include "base/file_io.h"
#include "model/model.h"

namespace nibble {
namespace {
using Json = nlohmann::ordered_json;
constexpr double kSaveSeconds = 10;   // between two states: what a crash can cost
constexpr size_t kMaxSequences = 256;  // of one step

std::string layer_name(size_t layer) { return fmt::format("model.language_model.layers.{}.", layer); }

ObservingOptions names_of(const ModelWeights& weights) {
  ObservingOptions options;
  const auto name = [&](const LinearWeight& weight, const std::string& module) {
    if (const auto* plain = std::get_if<Bf16Weight>(&weight)) options.weight_names[plain->weight.data] = module;
  };
  for (size_t i = 0; i < weights.layers.size(); ++i) {
    const LayerWeights& w = weights.layers[i];
    const std::string mlp = layer_name(i) + "mlp.", attention = layer_name(i) + "self_attn";
    name(w.q, attention + ".q_proj");
    name(w.k, attention + ".k_proj");
    if (w.v) name(*w.v, attention + ".v_proj");
    name(w.o, attention + ".o_proj");
    name(w.gate, mlp + "gate_proj");
    name(w.up, mlp + "up_proj");
    name(w.down, mlp + "down_proj");
    options.k_norm_names[w.k_norm.data] = attention;
  }
  return options;
}

// The next prompts that fit one step; at least one.
size_t end_of_batch(const std::vector<std::vector<int32_t>>& samples, size_t begin, int32_t max_rows) {
  size_t end = begin, rows = 0;
  while (end < samples.size() && end - begin < kMaxSequences && (end == begin || rows + samples[end].size() <= static_cast<size_t>(max_rows))) rows += samples[end++].size();
  return end;
}

void run_batch(Gemma4Model& model, std::span<const std::vector<int32_t>> samples) {
  std::vector<int32_t> ids, pages;
  std::vector<SequenceSlice> sequences;
  for (const auto& sample : samples) pages.resize(pages.size() + (sample.size() + kPageTokens - 1) / kPageTokens);
  std::iota(pages.begin(), pages.end(), 0);
  size_t page = 0;
  for (const auto& sample : samples) {
    const size_t n = (sample.size() + kPageTokens - 1) / kPageTokens;
    const std::span<const int32_t> table(pages.data() + page, n);
    sequences.push_back({static_cast<int32_t>(ids.size()), static_cast<int32_t>(sample.size()), 0, table, table});
    ids.insert(ids.end(), sample.begin(), sample.end());
    page += n;
  }
  model.forward({ids, sequences, {}}, nullptr);
}
}  // namespace

Json calibration_json(const Calibration& calibration, const std::string& fingerprint) {
  Json amax = Json::object();
  for (const auto& [name, seen] : calibration.amax) amax[name] = {{"first", seen.first}, {"rest", seen.rest}};
  return {{"samples", calibration.num_samples}, {"tokens", calibration.num_tokens}, {"fingerprint", fingerprint}, {"amax", std::move(amax)}};
}

Calibration parse_calibration(const std::string& text, const std::string& source, std::string* fingerprint) {
  Calibration out;
  try {
    const Json json = Json::parse(text);
    out.num_samples = json.at("samples");
    out.num_tokens = json.at("tokens");
    if (fingerprint) *fingerprint = json.at("fingerprint");
    for (const auto& [name, seen] : json.at("amax").items()) {
      const Amax amax{seen.at("first"), seen.at("rest")};
      if (!(std::isfinite(amax.first) && std::isfinite(amax.rest) && amax.first >= 0 && amax.rest >= 0)) raise(ErrorCode::corrupt, "{}: {} is not a magnitude", source, name);
      out.amax[name] = amax;
    }
  } catch (const nlohmann::json::exception& error) {
    raise(ErrorCode::corrupt, "{}: not an amax.json of nibble quantize: {}", source, error.what());
  }
  return out;
}

Calibration calibrate(const ModelConfig& config, const ModelWeights& weights, Backend& backend, const CalibrationOptions& options) {
  const double began = monotonic_seconds();
  Calibration out;
  if (!options.state.empty() && std::filesystem::exists(options.state)) {
    std::string fingerprint;
    const Calibration earlier = parse_calibration(read_file(options.state), options.state.string(), &fingerprint);
    if (fingerprint == options.fingerprint) {
      out = earlier;
      out.resumed_samples = earlier.num_samples;
    }
  }
  const int64_t total = std::accumulate(options.samples.begin(), options.samples.end(), int64_t{0}, [](int64_t n, const auto& s) { return n + static_cast<int64_t>(s.size()); });
  for (const auto& sample : options.samples) NB_ASSERT(!sample.empty() && sample.size() <= static_cast<size_t>(options.max_rows), "a sample has 1 to max_rows tokens");

  if (out.num_samples >= static_cast<int64_t>(options.samples.size())) return out;

  ObservingOptions watching = names_of(weights);
  watching.keep_bytes = backend.on_host() ? options.keep_bytes : INT64_MAX;
  watching.weights_are_mapped = options.weights_are_mapped;
  ObservingBackend observer(backend, std::move(watching));
  observer.amax = out.amax;
  const int32_t pages = options.max_rows / kPageTokens + static_cast<int32_t>(std::min(kMaxSequences, options.samples.size())) + 1;
  Gemma4Model model(config, weights, {.activations = DType::bf16, .kv_cache = DType::bf16, .num_full_pages = pages, .num_sliding_pages = pages, .max_rows = options.max_rows}, observer);

  const auto save = [&] {
    out.amax = observer.amax;
    if (!options.state.empty()) write_file(options.state, calibration_json(out, options.fingerprint).dump(1) + "\n");
  };
  double saved = 0;  // the first batch is saved at once
  for (size_t at = static_cast<size_t>(out.num_samples); at < options.samples.size();) {
    if (options.progress && !options.progress(out.num_tokens, total)) {
      save();
      raise(ErrorCode::cancelled, "interrupted after {} of {} calibration samples; the same command goes on from here", at, options.samples.size());
    }
    const size_t end = end_of_batch(options.samples, at, options.max_rows);
    run_batch(model, std::span(options.samples).subspan(at, end - at));
    for (; at < end; ++at) out.num_tokens += static_cast<int64_t>(options.samples[at].size());
    out.num_samples = static_cast<int64_t>(at);
    if (monotonic_seconds() - saved > kSaveSeconds) {
      save();
      saved = monotonic_seconds();
    }
  }
  save();
  if (options.progress) options.progress(total, total);
  out.seconds = monotonic_seconds() - began;
  return out;
}

std::map<std::string, float> calibrated_scales(const Calibration& calibration, const ModelConfig& config, Recipe recipe, bool kv_scales, std::vector<std::string>& warnings) {
  std::map<std::string, float> scales;
  const auto add = [&](const std::string& seen_as, const std::string& tensor, float reciprocal) {
    const auto found = calibration.amax.find(seen_as);
    if (found == calibration.amax.end()) raise(ErrorCode::corrupt, "the calibration does not know {}; it is of another model", seen_as);
    const float amax = found->second.all();
    if (amax == 0) warnings.push_back(fmt::format("{} saw zeros alone: {} is 1", seen_as, tensor));
    scales[tensor] = amax == 0 ? 1.0f : amax * reciprocal;
  };
  for (int32_t i = 0; i < config.num_layers() && recipe != Recipe::none; ++i) {
    const std::string layer = layer_name(static_cast<size_t>(i));
    if (recipe == Recipe::nvfp4_mlp_only) {
      for (const char* p : {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}) add(layer + p, layer + p + ".input_scale", kReciprocal2688);
    }
    if (!kv_scales) continue;
    add(layer + "self_attn.k", layer + "self_attn.k_proj.k_scale", kReciprocal448);
    add(layer + "self_attn.v", layer + "self_attn.v_proj.v_scale", kReciprocal448);
  }
  return scales;
}
}  // namespace nibble
