#include "quant/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

namespace nibble {
namespace {
using Json = nlohmann::ordered_json;

const char* recipe_name(Recipe recipe) { return recipe == Recipe::none ? "none" : recipe == Recipe::fp8_pb_wo ? "fp8_pb_wo" : "nvfp4_mlp_only"; }
double share(int64_t part, int64_t whole) { return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : 0; }

// What weights rounded this way reach when nothing is wrong: Gaussian ones have about 20.5 dB in NVFP4 and 31.5 dB in FP8.
Json verdict(const Json& report, Recipe recipe) {
  if (recipe == Recipe::none) return {{"good", true}, {"text", "a checked copy, bit for bit"}};
  const Json& fidelity = report["fidelity"];
  if (fidelity.is_object() && fidelity.contains("kld_mean")) {
    const Json limits = {{"kld_mean", 0.1}, {"top1_agreement", 0.85}, {"ppl_ratio", 1.1}};
    const double kld = fidelity["kld_mean"], top1 = fidelity["top1_agreement"], ratio = fidelity.value("ppl_ratio", 1.0);
    const bool good = kld <= limits["kld_mean"] && top1 >= limits["top1_agreement"] && ratio <= limits["ppl_ratio"];
    return {{"good", good}, {"text", fmt::format("{}: KL {:.4f} (limit {}), top-1 agreement {:.1f} % (limit {:.0f} %), perplexity x {:.3f} (limit {})", good ? "good" : "look closer", kld, limits["kld_mean"].dump(), 100 * top1, 85.0, ratio, limits["ppl_ratio"].dump())}, {"limits", limits}};
  }
  const double limit = recipe == Recipe::fp8_pb_wo ? 28 : 17, worst = report["worst_sqnr_db"];
  const bool good = worst >= limit;
  return {{"good", good}, {"text", fmt::format("{}: the worst matrix has {:.1f} dB SQNR (limit {:.0f} dB); no prompts were run", good ? "good" : "look closer", worst, limit)}, {"limits", {{"worst_sqnr_db", limit}}}};
}
}  // namespace

double sqnr_db(double weight_sq, double error_sq) { return error_sq > 0 && weight_sq > 0 ? 10 * std::log10(weight_sq / error_sq) : 200; }

Json quantize_report_json(const QuantizeOptions& options, const QuantizeReport& report, const Json& calibration, const Json& fidelity) {
  QuantError all;
  Json matrices = Json::array();
  double worst = 200;
  std::string worst_name;
  for (const MatrixReport& m : report.matrices) {
    const QuantError& e = m.error;
    all.add(e);
    const double db = sqnr_db(e.weight_sq, e.error_sq);
    if (db < worst) worst = db, worst_name = m.name;
    matrices.push_back({{"name", m.name}, {"format", m.format}, {"parameters", m.parameters}, {"mse", m.parameters ? e.error_sq / static_cast<double>(m.parameters) : 0},
                        {"relative_error", e.weight_sq > 0 ? std::sqrt(e.error_sq / e.weight_sq) : 0}, {"sqnr_db", db}, {"sqnr_db_max", sqnr_db(e.weight_sq, e.max_error_sq)},
                        {"error_against_max", e.max_error_sq > 0 ? e.error_sq / e.max_error_sq : 1}, {"saturated", share(e.saturated, m.parameters)}, {"zeros", share(e.zeros, m.parameters)},
                        {"blocks", e.blocks}, {"moved_blocks", share(e.moved_blocks, e.blocks)}});
  }
  Json out = {{"source", options.source.string()}, {"target", options.target.string()}, {"recipe", recipe_name(options.recipe)},
              {"weight_calib_algorithm", options.tensor_search ? "mse_tensor" : options.search == ScaleSearch::mse ? "mse" : "max"}, {"kv_cache", options.kv_cache_fp8 && options.recipe != Recipe::none ? "fp8" : "none"},
              {"version", options.version}, {"bytes_before", report.bytes_before}, {"bytes_after", report.bytes_after}, {"tensors", report.num_tensors}, {"shards", report.num_shards},
              {"seconds", report.seconds}, {"bytes_resumed", report.bytes_resumed}, {"quantized_matrices", report.matrices.size()}, {"sqnr_db", sqnr_db(all.weight_sq, all.error_sq)},
              {"sqnr_db_max", sqnr_db(all.weight_sq, all.max_error_sq)}, {"worst_sqnr_db", worst}, {"worst_matrix", worst_name}, {"calibration", calibration}, {"fidelity", fidelity}};
  out["verdict"] = verdict(out, options.recipe);
  out["matrices"] = std::move(matrices);
  return out;
}

std::string quantize_report_markdown(const Json& r) {
  std::string text = fmt::format("# {} ({})\n\n**{}**\n\n", r["recipe"].get<std::string>(), r["weight_calib_algorithm"].get<std::string>(), r["verdict"]["text"].get<std::string>());
  text += fmt::format("| | |\n| --- | --- |\n| source | {} |\n| target | {} |\n| bytes | {} -> {} ({:.1f} %) |\n| tensors, shards | {}, {} |\n| seconds | {:.1f} |\n| KV cache | {} |\n", r["source"].get<std::string>(), r["target"].get<std::string>(),
                      r["bytes_before"].get<int64_t>(), r["bytes_after"].get<int64_t>(), 100 * share(r["bytes_after"].get<int64_t>(), r["bytes_before"].get<int64_t>()), r["tensors"].get<int64_t>(), r["shards"].get<int64_t>(),
                      r["seconds"].get<double>(), r["kv_cache"].get<std::string>());
  if (!r["matrices"].empty()) text += fmt::format("| SQNR of all | {:.2f} dB (max: {:.2f} dB) |\n| worst | {:.2f} dB, {} |\n", r["sqnr_db"].get<double>(), r["sqnr_db_max"].get<double>(), r["worst_sqnr_db"].get<double>(), r["worst_matrix"].get<std::string>());
  for (const char* part : {"calibration", "fidelity"}) {
    if (!r[part].is_object()) continue;
    text += fmt::format("\n## {}\n\n| | |\n| --- | --- |\n", part == std::string("fidelity") ? "Against BF16" : "Calibration");
    for (const auto& [key, value] : r[part].items()) {
      if (!value.is_structured()) text += fmt::format("| {} | {} |\n", key, value.is_string() ? value.get<std::string>() : value.is_number_float() ? fmt::format("{:.5g}", value.get<double>()) : value.dump());
    }
  }
  if (r["calibration"].is_object() && r["calibration"].contains("amax")) {
    text += "\n## Largest magnitudes seen\n\n`first`: at position 0 of the samples.\n\n| input of, or cache | first | rest |\n| --- | --- | --- |\n";
    for (const auto& [name, seen] : r["calibration"]["amax"].items()) text += fmt::format("| {} | {:.4g} | {:.4g} |\n", name, seen["first"].get<double>(), seen["rest"].get<double>());
  }
  if (r["matrices"].empty()) return text;
  text += "\n## Matrices\n\n`error / max`: squared error over that of max's scales. `moved`: blocks whose scale is another than max's.\n\n| matrix | format | relative error | SQNR dB | max dB | error / max | saturated % | zeros % | moved % |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n";
  for (const Json& m : r["matrices"]) {
    text += fmt::format("| {} | {} | {:.4f} | {:.2f} | {:.2f} | {:.3f} | {:.2f} | {:.2f} | {:.1f} |\n", m["name"].get<std::string>(), m["format"].get<std::string>(), m["relative_error"].get<double>(), m["sqnr_db"].get<double>(),
                        m["sqnr_db_max"].get<double>(), m["error_against_max"].get<double>(), 100 * m["saturated"].get<double>(), 100 * m["zeros"].get<double>(), 100 * m["moved_blocks"].get<double>());
  }
  return text;
}
}  // namespace nibble
