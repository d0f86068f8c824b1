#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "eval/load_metrics.h"
#include "eval/load_report.h"

namespace nibble {
namespace {
using Json = nlohmann::ordered_json;

StoredRun run_of(const std::string& name, int concurrency, double itl_ms, const std::string& sha = "aa", int cap = 512) {
  std::vector<RequestRecord> records;
  for (int i = 0; i < 4; ++i) {
    RequestRecord r{.id = std::to_string(i), .category = "math", .t0_ns = 1'000'000'000 + i};
    for (int j = 0; j < 5; ++j) r.chunk_ns.push_back(r.t0_ns + 10'000'000 + static_cast<int64_t>(j * itl_ms * 1e6));
    r.status = 200;
    r.osl_server = 5;
    r.isl_rendered = 7;
    records.push_back(r);
  }
  Json m = load_metrics_json(records);
  m["workload"] = {{"name", "w"}, {"sha256", sha}, {"rows", 4}, {"synthetic", false}};
  m["load"] = {{"mode", "closed"}, {"concurrency", concurrency}};
  m["request"] = {{"model", "m"}, {"max_tokens", cap}, {"ignore_eos", false}};
  return {.name = name, .config = R"({"command": "nibble bench serving"})", .levels = {m.dump()}};
}

TEST(Compare, RefusesUnequalRuns) {
  const StoredRun a = run_of("a", 1, 10);
  for (const StoredRun& b : {run_of("b", 1, 5, "bb"), run_of("b", 1, 5, "aa", 128), run_of("b", 2, 5)}) {
    EXPECT_THROW(compare_loads(a, b, false), Error);
    EXPECT_NE(compare_loads(a, b, true).find("forced"), std::string::npos);
  }
}

TEST(Compare, MarksTheBetterSide) {
  const std::string text = compare_loads(run_of("a", 1, 10), run_of("b", 1, 5), false);
  EXPECT_NE(text.find("| ITL ms, mean | 10 | 5 * | 0.5 |"), std::string::npos) << text;
  EXPECT_NE(text.find("| tok/s/user | 100 | 200 * | 2 |"), std::string::npos) << text;
}

TEST(Report, HasItsPartsInOrder) {
  const std::string text = report_markdown({run_of("a", 1, 10), run_of("b", 1, 5)});
  size_t last = 0;
  for (const char* part : {"# a: 100 tok/s/user at C = 1", "## What was run", "## Single stream", "## Load", "## By category", "## Warnings", "## Again"}) {
    const size_t found = text.find(part);
    ASSERT_NE(found, std::string::npos) << part << "\n" << text;
    EXPECT_GE(found, last);
    last = found;
  }
}

TEST(ShortNumber, FourDigits) {
  EXPECT_EQ(short_number(3250.4), "3250");
  EXPECT_EQ(short_number(19.414), "19.41");
  EXPECT_EQ(short_number(0.96361), "0.9636");
  EXPECT_EQ(short_number(12345.6), "12346");
  EXPECT_EQ(short_number(2), "2");
  EXPECT_EQ(short_number(0), "0");
}
}  // namespace
}  // namespace nibble
