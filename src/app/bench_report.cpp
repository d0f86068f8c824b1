#include "app/bench_report.h"

#include <fmt/format.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/file_io.h"
#include "eval/load_report.h"

namespace nibble {
int run_bench_compare(const std::string& a, const std::string& b, bool force) {
  const StoredRun first = read_run(a), second = read_run(b);
  fmt::print("{}", first.evaluation && second.evaluation ? compare_evaluations(first, second) : compare_loads(first, second, force));
  return 0;
}

int run_bench_report(const std::vector<std::string>& paths, const std::string& out) {
  std::vector<StoredRun> runs;
  for (const std::string& path : paths) runs.push_back(read_run(path));
  const std::string text = report_markdown(runs);
  if (out.empty()) {
    fmt::print("{}", text);
    return 0;
  }
  std::filesystem::create_directories(out);
  write_file(std::filesystem::path(out) / "report.md", text);
  write_file(std::filesystem::path(out) / "report.json", report_json(runs).dump(1) + "\n");
  fmt::print("written: {0}/report.md, {0}/report.json\n", out);
  return 0;
}
}  // namespace nibble
