#include "app/inspect_compare.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <ostream>

#include "app/fidelity_command.h"
#include "formats/model_folder.h"
#include "quant/compare.h"
#include "quant/report.h"

namespace nibble {
namespace {
using Json = nlohmann::ordered_json;
constexpr size_t kShown = 20;

std::string formats_of(const TensorDifference& d) {
  if (d.format_a.empty()) return "only in B (" + d.format_b + ")";
  if (d.format_b.empty()) return "only in A (" + d.format_a + ")";
  return d.format_a == d.format_b ? d.format_a : d.format_a + " -> " + d.format_b;
}

Json json_of(const TensorDifference& d) {
  Json shape = Json::array();
  for (int i = 0; i < d.shape.rank; ++i) shape.push_back(d.shape[i]);
  Json out = {{"name", d.name}, {"format_a", d.format_a.empty() ? Json(nullptr) : Json(d.format_a)}, {"format_b", d.format_b.empty() ? Json(nullptr) : Json(d.format_b)}, {"shape", shape}};
  if (d.missing()) return out;
  const double relative = d.relative_error();
  out["relative_error"] = std::isfinite(relative) ? Json(relative) : Json(nullptr);
  out["sqnr_db"] = sqnr_db(d.a_sq, d.error_sq);
  out["worst_block"] = {{"row", d.worst_row}, {"col", d.worst_col}, {"relative_error", d.worst_block_error}};
  return out;
}
}  // namespace

int inspect_compare(const InspectCompareFlags& flags, std::ostream& out) {
  const auto a = find_model_folder({flags.a, flags.model.revision, flags.model.download_dir}), b = find_model_folder({flags.b, flags.model.revision, flags.model.download_dir});
  const auto differences = compare_checkpoints(a, b, flags.model.threads);
  int64_t equal = 0, missing = 0;
  double a_sq = 0, error_sq = 0;
  Json rows = Json::array();
  for (const TensorDifference& d : differences) {
    rows.push_back(json_of(d));
    missing += d.missing();
    equal += !d.missing() && d.error_sq == 0;
    if (d.missing()) continue;
    a_sq += d.a_sq;
    error_sq += d.error_sq;
  }
  Json report = {{"a", a.string()}, {"b", b.string()}, {"tensors", differences.size()}, {"equal", equal}, {"missing", missing}, {"relative_error", a_sq > 0 ? std::sqrt(error_sq / a_sq) : 0}, {"sqnr_db", sqnr_db(a_sq, error_sq)}};
  if (!flags.prompts.empty()) {
    FidelityFlags fidelity{.reference = a.string(), .candidate = flags.model, .prompts = flags.prompts == "own" ? "" : flags.prompts, .num_examples = flags.num_prompts};
    fidelity.candidate.model_path = b.string();
    report["fidelity"] = measure_fidelity(fidelity);
  }
  report["differences"] = std::move(rows);
  if (flags.json) {
    out << report.dump(1) << "\n";
    return 0;
  }
  out << fmt::format("{} tensors: {} equal, {} in one checkpoint alone, {} different; in all |A - B| / |A| = {:.5f}, SQNR {:.2f} dB\n", differences.size(), equal, missing, static_cast<int64_t>(differences.size()) - equal - missing,
                     report["relative_error"].get<double>(), report["sqnr_db"].get<double>());
  size_t shown = 0;
  for (const TensorDifference& d : differences) {
    if (!d.missing() && d.error_sq == 0) break;
    if (shown == 0) out << fmt::format("\n{:<56} {:<22} {:>10} {:>8}  worst 16 values\n", "tensor", "format", "rel. error", "SQNR dB");
    if (shown == kShown && !flags.all) {
      out << "... (--all shows every one)\n";
      break;
    }
    ++shown;
    out << fmt::format("{:<56} {:<22}", d.name, formats_of(d));
    if (!d.missing()) out << fmt::format(" {:>10.5f} {:>8.2f}  [{}, {}..]: {:.4f}", d.relative_error(), sqnr_db(d.a_sq, d.error_sq), d.worst_row, d.worst_col, d.worst_block_error);
    out << "\n";
  }
  if (report.contains("fidelity")) {
    const Json& f = report["fidelity"];
    out << fmt::format("\n{} positions of {} prompts: KL(A||B) {:.5f} ± {:.5f}, top-1 agreement {:.2f} %, perplexity {:.4f} -> {:.4f} (x {:.4f})\n", f["positions"].get<double>(), f["documents"].get<double>(), f["kld_mean"].get<double>(),
                       f["kld_mean_se"].get<double>(), 100 * f["top1_agreement"].get<double>(), f.value("ppl_ref", 0.0), f.value("ppl", 0.0), f.value("ppl_ratio", 0.0));
  }
  return 0;
}
}  // namespace nibble
