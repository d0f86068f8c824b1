// Reports and comparisons, made from stored JSON alone.
#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace nibble {
// A run folder (or a metrics.json or sweep.json): one entry per level of a load test, or one of an evaluation.
struct StoredRun {
  std::string name;                // the folder's
  std::filesystem::path folder;
  std::string config, server_info; // JSON text, "" when absent
  std::vector<std::string> levels; // JSON text of each metrics.json, by concurrency
  bool evaluation = false;
};
StoredRun read_run(const std::filesystem::path& path);  // raises not_found, corrupt

// report.md: verdict, what ran, single stream, load, categories, accuracy, warnings, how to repeat.
std::string report_markdown(const std::vector<StoredRun>& runs);
// The same numbers for programs and plots.
nlohmann::ordered_json report_json(const std::vector<StoredRun>& runs);

// Ratios B / A with the better side marked. Raises invalid_argument when the runs are not of the same workload, token source, output cap and levels,
// unless `force`; then the text says so.
std::string compare_loads(const StoredRun& a, const StoredRun& b, bool force);
// Paired test of two evaluations.
std::string compare_evaluations(const StoredRun& a, const StoredRun& b);

// At most four significant digits: 3250, 19.41, 0.9636.
std::string short_number(double value);
}  // namespace nibble
