#include "base/process.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>
#include <vector>

namespace nibble {
namespace {
TEST(Process, AgesWithTheClock) {
  const double before = process_age_seconds();
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  const double after = process_age_seconds();
  EXPECT_GE(before, 0);
  EXPECT_LT(before, 600);
  EXPECT_GE(after - before, 0.19);
  EXPECT_LT(after - before, 60);
}

TEST(Process, PeakMemoryHoldsWhatWasTouched) {
  const int64_t before = peak_host_bytes();
  EXPECT_GT(before, 1 << 20);
  std::vector<char> block(static_cast<size_t>(before) + (64 << 20), 1);
  EXPECT_GE(peak_host_bytes(), static_cast<int64_t>(block.size()));
}

TEST(Process, TheProgramHasASize) { EXPECT_GT(program_bytes(), 10000); }
}  // namespace
}  // namespace nibble
