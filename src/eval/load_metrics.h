// From records to metrics: latencies, throughput, speculation. A function of records.jsonl alone, so that every number can be recomputed.
#pragma once

#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "eval/load_run.h"
#include "eval/statistics.h"

namespace nibble {
// Of one request, in ms and tokens/s; absent where the request does not have it.
struct RequestMetrics {
  std::optional<double> ttft, ttst, ttfo, request_latency, itl, tok_s_user, tok_s_e2e, prefill_tok_s;
  std::vector<double> icl;
};
RequestMetrics metrics_of(const RequestRecord& record);

struct SpeculationMetrics {
  int64_t steps = 0, drafted = 0, accepted = 0;
  double acceptance_length = 0;     // 1 + accepted / steps: a ratio of sums
  double acceptance_length_per_request_mean = 0;
  double acceptance_rate = 0;       // accepted / drafted
  double accepted_per_verified = 0; // (accepted + steps) / (drafted + steps)
  std::vector<int64_t> histogram;
  std::vector<double> position_rate;  // [i - 1]: of the steps that offered position i, the share that accepted it
};
// nullopt: no record speculated.
std::optional<SpeculationMetrics> speculation_of(const std::vector<RequestRecord>& records);

using Limits = std::map<std::string, double>;  // "ttft" -> ms, "itl" -> ms, "request_latency" -> ms

// {"latency", "histograms", "throughput", "spec", "by_category", "validity", "token_source"}, as docs/formats/results.md has them.
nlohmann::ordered_json load_metrics_json(const std::vector<RequestRecord>& records, const Limits& slo = {});
nlohmann::ordered_json histogram_json(const std::vector<double>& values);  // of ms
nlohmann::ordered_json summary_json(const Summary& summary);
}  // namespace nibble
