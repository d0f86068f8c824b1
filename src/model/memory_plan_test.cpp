#include "model/memory_plan.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace nibble {
namespace {
constexpr int64_t kGib = int64_t{1} << 30;

// The 12B with FP8 pages: 8 KiB a token on full layers, 160 KiB on sliding ones.
MemoryNeeds large() {
  return {.device_bytes = 140 * kGib, .free_bytes = 139 * kGib, .weight_bytes = 12 * kGib, .working_bytes = 5 * kGib, .page_tokens = 16, .sliding_window = 1024, .full_page_bytes = 16 << 13,
          .sliding_page_bytes = 16 * 160 << 10, .max_running = 256, .max_rows = 2304, .context_length = 1 << 18};
}
int64_t cache_bytes(const MemoryPlan& p, const MemoryNeeds& n) { return p.num_full_pages * n.full_page_bytes + p.num_sliding_pages * n.sliding_page_bytes; }
std::string refusal(const MemoryNeeds& n) {
  try {
    plan_memory(n);
  } catch (const Error& error) {
    return error.message;
  }
  return "none";
}
}  // namespace

TEST(MemoryPlan, TheFractionIsKeptToThePage) {
  MemoryNeeds n = large();
  for (const double fraction : {0.3, 0.5, 0.85}) {
    n.fraction = fraction;
    const MemoryPlan p = plan_memory(n);
    const auto room = static_cast<int64_t>(fraction * static_cast<double>(n.device_bytes)) - n.weight_bytes;
    EXPECT_LE(cache_bytes(p, n), room) << fraction;
    EXPECT_GT(cache_bytes(p, n), room - n.full_page_bytes - n.sliding_page_bytes) << fraction;
  }
}

TEST(MemoryPlan, SlidingLayersGetTheWindowsOfAllAndFullLayersTheRest) {
  const MemoryNeeds n = large();
  const MemoryPlan p = plan_memory(n);
  EXPECT_GE(p.num_sliding_pages, 256 * 65 + 144);
  EXPECT_LE(p.num_sliding_pages, (256 * 65 + 144) * 5 / 4);
  EXPECT_GT(int64_t{p.num_full_pages} * 16, 4'000'000);
  EXPECT_NE(p.text.find("tokens on full layers"), std::string::npos);
}

TEST(MemoryPlan, LittleMemoryHoldsTheSameTokensOnBothKindsOfLayers) {
  MemoryNeeds n = large();
  n.device_bytes = n.free_bytes = 24 * kGib;
  const MemoryPlan p = plan_memory(n);
  EXPECT_EQ(p.num_full_pages, p.num_sliding_pages);
  EXPECT_LE(cache_bytes(p, n), 24 * kGib - n.weight_bytes - n.working_bytes);
}

TEST(MemoryPlan, NoMoreThanCanBeOfUse) {
  MemoryNeeds n = large();
  n.max_running = 2;
  n.context_length = 8192;
  const MemoryPlan p = plan_memory(n);
  EXPECT_EQ(p.num_full_pages, 2 * 8192 / 16);
  EXPECT_LE(p.num_sliding_pages, p.num_full_pages);
}

TEST(MemoryPlan, RefusalsNameTheNumberThatFits) {
  MemoryNeeds n = large();
  n.max_total_tokens = 100'000'000;
  const std::string too_many = refusal(n);
  ASSERT_NE(too_many.find("--max-total-tokens 100000000"), std::string::npos) << too_many;
  const size_t at = too_many.rfind("; ");
  n.max_total_tokens = std::stoll(too_many.substr(at + 2));
  EXPECT_EQ(refusal(n), "none") << "what the refusal offers must fit";
  EXPECT_EQ(int64_t{plan_memory(n).num_full_pages} * 16, n.max_total_tokens);

  n = large();
  n.fraction = 0.05;
  const std::string too_small = refusal(n);
  ASSERT_NE(too_small.find("the smallest that works is "), std::string::npos) << too_small;
  n.fraction = std::stod(too_small.substr(too_small.rfind(' ')));
  EXPECT_EQ(refusal(n), "none");

  n.fraction = 1.5;
  EXPECT_NE(refusal(n).find("--mem-fraction-static 1.5"), std::string::npos);
  n = large();
  n.free_bytes = 13 * kGib;
  EXPECT_NE(refusal(n).find("are free on the device"), std::string::npos);
}

TEST(MemoryPlan, TheHostGivesTwoGibAtMost) {
  MemoryNeeds n = large();
  n.device_bytes = n.free_bytes = 0;
  const MemoryPlan p = plan_memory(n);
  EXPECT_EQ(p.num_full_pages, p.num_sliding_pages);
  EXPECT_LE(cache_bytes(p, n), 2 * kGib);
  n.max_total_tokens = 100;
  EXPECT_EQ(plan_memory(n).num_full_pages, 7);
}
}  // namespace nibble
