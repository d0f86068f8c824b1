#include "eval/fidelity.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

namespace nibble {
namespace {
TEST(FidelityByHand, TwoClasses) {
  // p = (1/2, 1/2), q = (3/4, 1/4): KLD = (ln(2/3) + ln 2) / 2; the next token is 0.
  Fidelity f(2);
  const std::vector<float> p{0, 0}, q{std::log(3.0f), 0};
  f.add(p, q, 0);
  const auto r = f.report();
  EXPECT_NEAR(r["kld_mean"], 0.5 * (std::log(2.0 / 3) + std::log(2.0)), 1e-7);
  EXPECT_NEAR(r["ppl_ref"], 2, 1e-7);
  EXPECT_NEAR(r["ppl"], 4.0 / 3, 1e-7);
  EXPECT_NEAR(r["ppl_ratio"], 2.0 / 3, 1e-7);
  EXPECT_NEAR(r["dp_mean"], 25, 1e-5);
  EXPECT_EQ(r["top1_agreement"], 1);  // the first of equals on both sides
}

TEST(Fidelity, IdenticalLogitsAreExactlyEqual) {
  Fidelity f(101);
  std::vector<float> row(101);
  for (int i = 0; i < 50; ++i) {
    for (size_t v = 0; v < row.size(); ++v) row[v] = std::sin(static_cast<float>(v * 7 + static_cast<size_t>(i) * 13)) * 30;
    f.add(row, row, i);
    if (i % 10 == 9) f.end_document();
  }
  const auto r = f.report();
  EXPECT_EQ(r["kld_mean"], 0);
  EXPECT_EQ(r["kld_max"], 0);
  EXPECT_EQ(r["top1_agreement"], 1);
  EXPECT_EQ(r["top5_recall"], 1);
  EXPECT_EQ(r["ppl_ratio"], 1);
  EXPECT_EQ(r["dp_rms"], 0);
  EXPECT_EQ(r["kld_mean_se"], 0);
  EXPECT_EQ(r["documents"], 5);
}
}  // namespace
}  // namespace nibble
