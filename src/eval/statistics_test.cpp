#include "eval/statistics.h"

#include <gtest/gtest.h>

#include <cmath>

namespace nibble {
namespace {
TEST(PercentileByHand, InterpolatesLinearly) {
  const std::vector<double> x{10, 20, 30, 40};
  EXPECT_DOUBLE_EQ(percentile(x, 0), 10);
  EXPECT_DOUBLE_EQ(percentile(x, 100), 40);
  EXPECT_DOUBLE_EQ(percentile(x, 50), 25);     // h = 1.5
  EXPECT_DOUBLE_EQ(percentile(x, 90), 37);     // h = 2.7
  EXPECT_DOUBLE_EQ(percentile({7}, 99), 7);
}

TEST(SummaryByHand, PopulationDeviation) {
  const Summary s = summarize({4, 2, 6});
  EXPECT_EQ(s.count, 3);
  EXPECT_DOUBLE_EQ(s.mean, 4);
  EXPECT_DOUBLE_EQ(s.std, std::sqrt(8.0 / 3));
  EXPECT_DOUBLE_EQ(s.p50, 4);
}

TEST(LogHistogramByHand, TwentyBinsADecade) {
  // log10(1.05) = 0.021, log10(1.2) = 0.079 and log10(9.9) = 0.996 of a decade: bins 0, 1 and 19.
  const LogHistogram h = log_histogram({1.2, 1, 9.9, 1.05, 10});
  EXPECT_EQ(h.first, 0);
  ASSERT_EQ(h.counts.size(), 21u);
  EXPECT_EQ(h.counts[0], 2);
  EXPECT_EQ(h.counts[1], 1);
  EXPECT_EQ(h.counts[19], 1);
  EXPECT_EQ(h.counts[20], 1);
  EXPECT_EQ(log_histogram({0.5}).first, -7);  // log10(0.5) * 20 = -6.02
  EXPECT_EQ(log_histogram({0, -1}).first, -60);
  EXPECT_EQ(log_histogram({0, -1}).counts, std::vector<int64_t>{2});
  EXPECT_EQ(log_histogram({1e9}).first, 120);
  EXPECT_TRUE(log_histogram({}).counts.empty());
}

TEST(ScoreErrorByHand, PublishedScore) { EXPECT_NEAR(score_error(0.9636, 1319), 0.0052, 5e-5); }

TEST(PairedByHand, ExactBinomial) {
  // b = 8, c = 2 of 100: p = 2 (1 + 10 + 45) / 1024; SE = sqrt(10 - 36/100) / 100.
  const Paired p = paired_test(100, 8, 2);
  EXPECT_DOUBLE_EQ(p.delta, 0.06);
  EXPECT_DOUBLE_EQ(p.delta_error, std::sqrt(10 - 0.36) / 100);
  EXPECT_NEAR(p.p_value, 112.0 / 1024, 1e-12);
  EXPECT_EQ(p.verdict, "no measurable loss");  // 0.06 - 1.96 * 0.031 < 0
  EXPECT_EQ(paired_test(100, 10, 1).verdict, "loss");
  EXPECT_EQ(paired_test(100, 1, 10).verdict, "gain");
  EXPECT_DOUBLE_EQ(paired_test(100, 0, 0).p_value, 1);
  EXPECT_DOUBLE_EQ(paired_test(100, 5, 5).p_value, 1);
}

TEST(PairedByHand, CountsDiscordantRows) {
  const Paired p = paired_test({true, true, false, false, true}, {true, false, true, false, false});
  EXPECT_EQ(p.n, 5);
  EXPECT_EQ(p.b, 2);
  EXPECT_EQ(p.c, 1);
}

TEST(PassAtByHand, CombinatorialEstimate) {
  EXPECT_DOUBLE_EQ(pass_at(4, 1, 1), 0.25);
  EXPECT_DOUBLE_EQ(pass_at(4, 1, 2), 0.5);          // 1 - C(3,2)/C(4,2)
  EXPECT_DOUBLE_EQ(pass_at(4, 3, 2), 1);            // n - c < j
  EXPECT_DOUBLE_EQ(pass_at(4, 0, 3), 0);
  EXPECT_DOUBLE_EQ(sample_std({1, 3}), std::sqrt(2.0));
}
}  // namespace
}  // namespace nibble
