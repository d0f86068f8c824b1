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
      pool.run_in_runs(parts, [&](int64_t part) { seen[static_cast<size_t>(part)].fetch_add(1); });
      for (const auto& count : seen) ASSERT_EQ(count.load(), 2);
    }
  }
}

TEST(ThreadPool, RunsAreLongAtFirstAndSinglePartsAtTheEnd) {
  ThreadPool one(1), pool(3);
  std::vector<int64_t> order;
  one.run_in_runs(40, [&](int64_t part) { order.push_back(part); });
  for (int64_t i = 0; i < 40; ++i) ASSERT_EQ(order[static_cast<size_t>(i)], i);
  // Which thread had a part: with 600 parts and three threads the first hundred are one run, and no thread finds more than a sixth of what is left.
  std::vector<std::thread::id> owner(600);
  pool.run_in_runs(600, [&](int64_t part) { owner[static_cast<size_t>(part)] = std::this_thread::get_id(); });
  for (size_t i = 1; i < 100; ++i) ASSERT_EQ(owner[i], owner[0]);
}

TEST(ThreadPool, ManyShortLoopsOfChangingLengthNeitherLoseNorRepeatAPart) {
  ThreadPool pool(3);
  for (int loop = 0; loop < 20000; ++loop) {
    const int64_t parts = 1 + loop % 17;
    std::atomic<int64_t> sum{0};
    const auto add = [&](int64_t part) { sum.fetch_add(part + 1, std::memory_order_relaxed); };
    loop % 3 == 0 ? pool.run_in_runs(parts, add) : pool.run(parts, add);
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
