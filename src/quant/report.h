// What a quantization did, as report.json, report.md and a verdict.
//
// Per matrix: relative error |w - q| / |w| (Frobenius norms), SQNR = 10 log10(sum w^2 / sum (w - q)^2), the same SQNR if the scales were max's, and shares of
// codes and blocks. With a fidelity measurement (KL, top-1, perplexity ratio) the verdict rests on that, else on the worst matrix.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "quant/quantize.h"

namespace nibble {
double sqnr_db(double weight_sq, double error_sq);  // 200 for no error

// fidelity: Fidelity::report(), or null. The verdict's thresholds stand in the result.
nlohmann::ordered_json quantize_report_json(const QuantizeOptions& options, const QuantizeReport& report, const nlohmann::ordered_json& calibration, const nlohmann::ordered_json& fidelity);
std::string quantize_report_markdown(const nlohmann::ordered_json& report);
}  // namespace nibble
