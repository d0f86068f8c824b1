#include "app/inspect_checkpoint.h"

#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <ostream>

#include "base/error.h"
#include "base/file_io.h"
#include "formats/model_config.h"
#include "formats/quant_config.h"
#include "kernels/attention.h"
#include "model/model.h"
#include "model/weights.h"

namespace nibble {
namespace {
using nlohmann::ordered_json;

std::string gigabytes(int64_t bytes) {
  if (bytes < 10'000'000) return fmt::format("{:.1f} kB", static_cast<double>(bytes) / 1e3);
  return fmt::format("{:.3f} GB", static_cast<double>(bytes) / 1e9);
}

DType kv_dtype(const std::string& flag, const QuantConfig& quant) {
  if (flag == "auto") return quant.kv_cache_fp8 ? DType::e4m3 : DType::bf16;
  if (flag == "bf16" || flag == "bfloat16") return DType::bf16;
  if (flag == "fp8_e4m3") return DType::e4m3;
  if (flag == "float32") return DType::f32;
  raise(ErrorCode::invalid_argument, "--kv-cache-dtype {}: wanted auto, float32, bfloat16 or fp8_e4m3", flag);
}

struct Plan {
  int64_t total_bytes, weights_bytes, full_token_bytes, sliding_sequence_bytes, context_bytes, contexts_that_fit;
};

// A full layer keeps every position, a sliding one its window and the page that is being filled.
Plan make_plan(const ModelConfig& config, DType kv, int64_t weights_bytes) {
  const int64_t window_pages = (int64_t{config.sliding_window} + kPageTokens - 1) / kPageTokens + 1;
  Plan plan{};
  plan.total_bytes = int64_t{::sysconf(_SC_PHYS_PAGES)} * ::sysconf(_SC_PAGESIZE);
  plan.weights_bytes = weights_bytes;
  plan.full_token_bytes = page_bytes(config, LayerKind::full, kv) / kPageTokens;
  plan.sliding_sequence_bytes = window_pages * page_bytes(config, LayerKind::sliding, kv);
  plan.context_bytes = plan.sliding_sequence_bytes + plan.full_token_bytes * config.max_position_embeddings;
  plan.contexts_that_fit = std::max<int64_t>(0, (plan.total_bytes - weights_bytes) / std::max<int64_t>(1, plan.context_bytes));
  return plan;
}

ordered_json as_json(const Plan& plan) {
  return {{"device", "cpu"},
          {"memory_bytes", plan.total_bytes},
          {"weights_bytes", plan.weights_bytes},
          {"kv_bytes_per_token", plan.full_token_bytes},
          {"kv_bytes_per_sequence_window", plan.sliding_sequence_bytes},
          {"kv_bytes_full_context", plan.context_bytes},
          {"full_contexts_that_fit", plan.contexts_that_fit}};
}

ordered_json make_report(const std::filesystem::path& folder, const ModelConfig& config, const QuantConfig& quant, const ModelWeights& weights,
                         const std::vector<std::string>& problems, DType kv) {
  ordered_json groups = ordered_json::array();
  int64_t bytes = 0;
  for (const WeightGroup& group : weight_groups(weights)) {
    groups.push_back({{"group", group.name}, {"format", group.format}, {"parameters", group.parameters}, {"bytes", group.bytes}});
    bytes += group.bytes;
  }
  const auto num_full = std::count_if(config.layers.begin(), config.layers.end(), [](const LayerConfig& l) { return l.kind == LayerKind::full; });
  return {{"folder", folder.string()},
          {"architecture", config.architecture},
          {"model_type", config.model_type},
          {"quantization", name_of(quant.algo)},
          {"quantization_source", quant.source},
          {"parameters", weights.parameter_count()},
          {"bytes", bytes},
          {"groups", groups},
          {"layers", config.num_layers()},
          {"full_attention_layers", num_full},
          {"sliding_window", config.sliding_window},
          {"context_length", config.max_position_embeddings},
          {"vocab_size", config.vocab_size},
          {"tied_head", weights.head_is_tied},
          {"vision", config.vision.has_value()},
          {"audio", config.audio.has_value()},
          {"kv_cache_dtype", name_of(kv)},
          {"kv_scales_found", weights.num_kv_scales},
          {"kv_scales_used", 0},
          {"ignored_tensors", weights.num_ignored},
          {"warnings", weights.warnings},
          {"problems", problems}};
}

void print(const ordered_json& r, std::ostream& out) {
  const auto text = [&](const char* key) { return r[key].get<std::string>(); };
  const auto number = [&](const char* key) { return r[key].get<int64_t>(); };
  out << fmt::format("folder        {}\n", text("folder"));
  out << fmt::format("architecture  {} ({})\n", text("architecture"), text("model_type"));
  out << fmt::format("layers        {}, {} of them full attention; window {}\n", number("layers"), number("full_attention_layers"), number("sliding_window"));
  out << fmt::format("context       {} tokens, vocabulary {}\n", number("context_length"), number("vocab_size"));
  out << fmt::format("quantization  {}{}\n", text("quantization"), text("quantization_source").empty() ? "" : " (" + text("quantization_source") + ")");
  out << fmt::format("KV cache      {}; {} k/v scales in the files, none used (K and V are stored with scale 1)\n", text("kv_cache_dtype"), number("kv_scales_found"));
  out << fmt::format("ignored       {} tensors\n\n", number("ignored_tensors"));
  out << fmt::format("{:<12}{:<14}{:>16}{:>14}\n", "group", "format", "parameters", "size");
  for (const ordered_json& g : r["groups"]) {
    out << fmt::format("{:<12}{:<14}{:>16}{:>14}\n", g["group"].get<std::string>(), g["format"].get<std::string>(), g["parameters"].get<int64_t>(),
                       gigabytes(g["bytes"].get<int64_t>()));
  }
  out << fmt::format("{:<26}{:>16}{:>14}\n", "total", number("parameters"), gigabytes(number("bytes")));
  if (r.contains("plan")) {
    const ordered_json& p = r["plan"];
    const auto size = [&](const char* key) { return gigabytes(p[key].get<int64_t>()); };
    out << fmt::format("\nmemory plan ({}, {} in all)\n", p["device"].get<std::string>(), size("memory_bytes"));
    out << fmt::format("  weights as stored            {}\n", size("weights_bytes"));
    out << fmt::format("  KV cache per token           {} in full layers\n", size("kv_bytes_per_token"));
    out << fmt::format("  KV cache per sequence        {} in sliding layers\n", size("kv_bytes_per_sequence_window"));
    out << fmt::format("  one sequence of full length  {}; {} fit beside the weights\n", size("kv_bytes_full_context"), p["full_contexts_that_fit"].get<int64_t>());
  }
  for (const ordered_json& warning : r["warnings"]) out << "warning: " << warning.get<std::string>() << '\n';
  for (const ordered_json& problem : r["problems"]) out << "problem: " << problem.get<std::string>() << '\n';
}
}  // namespace

int inspect_checkpoint(const InspectCheckpointOptions& options, std::ostream& out) {
  const std::filesystem::path folder = find_model_folder(options.model);
  const std::string config_json = read_config_json(folder, options.overrides);
  const ModelConfig config = parse_model_config(config_json, (folder / "config.json").string());
  const auto hf_path = folder / "hf_quant_config.json";
  const QuantConfig quant = parse_quant_config(config_json, std::filesystem::exists(hf_path) ? read_file(hf_path) : "", folder.string());
  const DType kv = kv_dtype(options.kv_cache_dtype, quant);
  std::vector<std::string> problems;
  const ModelWeights weights = ModelWeights::examine(folder, config, quant, problems);
  ordered_json report = make_report(folder, config, quant, weights, problems, kv);
  if (options.plan) report["plan"] = as_json(make_plan(config, kv, report["bytes"].get<int64_t>()));
  if (options.json) {
    out << report.dump(-1, ' ', false, ordered_json::error_handler_t::replace) << '\n';
  } else {
    print(report, out);
  }
  return problems.empty() ? 0 : 1;
}
}  // namespace nibble
