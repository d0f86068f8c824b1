#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <chrono>
#include <vector>

namespace nibble {
namespace {
TEST(ThreadPool, RunsEveryPartOnceHoweverManyThreads) {
  for (int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.size(), threads);
    for (int64_t parts : {0, 1, 2, 3, 17, 1000}) {
      std::vector<std::atomic<int>> seen(static_cast<size_t>(parts));
      pool.run(parts, [&](int64_t part) { seen[static_cast<size_t>(part)].fetch_add(1); });
      for (const auto& count : seen) ASSERT_EQ(count.load(), 1);
    }
  }
}

TEST(ThreadPool, ManyShortLoopsOfChangingLengthNeitherLoseNorRepeatAPart) {
  ThreadPool pool(3);
  for (int loop = 0; loop < 20000; ++loop) {
    const int64_t parts = 1 + loop % 7;
    std::atomic<int64_t> sum{0};
    pool.run(parts, [&](int64_t part) { sum.fetch_add(part + 1, std::memory_order_relaxed); });
    ASSERT_EQ(sum.load(), parts * (parts + 1) / 2);
  }
}

TEST(ThreadPool, WakesThreadsThatWentToSleep) {
  ThreadPool pool(2);
  for (int round = 0; round < 3; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    std::atomic<int> count{0};
    pool.run(4, [&](int64_t) { count.fetch_add(1); });
    EXPECT_EQ(count.load(), 4);
  }
}
}  // namespace
}  // namespace nibble
