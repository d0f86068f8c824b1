// Who is admitted when pages are few.
#include "engine/scheduler.h"

#include <gtest/gtest.h>

#include <numeric>

namespace nibble {
namespace {
constexpr int32_t kPageTokens = 16;

std::shared_ptr<RequestState> request(int32_t first_id, int32_t num_tokens, int32_t max_tokens) {
  auto state = std::make_shared<RequestState>();
  state->request = std::make_unique<Request>();
  state->request->prompt.resize(static_cast<size_t>(num_tokens));
  std::iota(state->request->prompt.begin(), state->request->prompt.end(), first_id);
  state->request->max_tokens = max_tokens;
  return state;
}

// A step in which every sequence at its end gains a token. How many took part.
size_t step(Scheduler& scheduler) {
  const std::vector<PlannedRows> plan = scheduler.plan();
  for (const PlannedRows& p : plan) {
    scheduler.advance(*p.sequence, p.num_rows);
    if (p.sequence->remaining() == 0) p.sequence->tokens.push_back(7);
  }
  return plan.size();
}

struct Pools {
  explicit Pools(int32_t full_pages)
      : scheduler({.page_tokens = kPageTokens, .num_full_pages = full_pages, .num_sliding_pages = 200, .sliding_window = 32, .full_page_bytes = 1, .sliding_page_bytes = 1},
                  {.prefill_tokens = 2 * kPageTokens, .max_rows = 64}) {}
  Scheduler scheduler;
};

TEST(SchedulerAdmission, CachedPagesThatARunningSequenceUsesAreNoRoom) {
  Pools pools(20);
  Scheduler& s = pools.scheduler;
  s.add(request(0, 10 * kPageTokens, 4));
  for (int i = 0; i < 6; ++i) step(s);  // its prompt is computed, and cached; its reply takes one page more
  EXPECT_EQ(s.full_pool().num_free(), 9);
  EXPECT_EQ(s.full_pool().num_idle(), 0);
  // 9 pages are free, 15 are wanted: half way through its prompt it would have to go again.
  s.add(request(5000, 15 * kPageTokens, 4));
  for (int i = 0; i < 8; ++i) EXPECT_EQ(step(s), 1u);
  EXPECT_EQ(s.num_running(), 1);
  EXPECT_EQ(s.num_retracted(), 0);
  // Once the first is gone its pages are cached and idle, which is room.
  s.remove(*s.all().front(), /*keep_prefix=*/true);
  EXPECT_GE(s.full_pool().num_idle(), 10);
  for (int i = 0; i < 9; ++i) EXPECT_EQ(step(s), 1u);
  EXPECT_EQ(s.num_running(), 1);
  EXPECT_EQ(s.num_retracted(), 0);
}

TEST(SchedulerAdmission, AMatchedPrefixIsNeitherMissingNorRoom) {
  Pools pools(20);
  Scheduler& s = pools.scheduler;
  s.add(request(0, 10 * kPageTokens, 4));
  for (int i = 0; i < 6; ++i) step(s);
  // The same 10 pages and 8 more, of which 9 are free: 9 are wanted, for the tokens and the next one.
  s.add(request(0, 18 * kPageTokens, 4));
  EXPECT_EQ(step(s), 2u);
  EXPECT_EQ(s.num_running(), 2);
  // And 8 more than are free.
  Pools other(20);
  Scheduler& t = other.scheduler;
  t.add(request(0, 10 * kPageTokens, 4));
  for (int i = 0; i < 6; ++i) step(t);
  t.add(request(0, 19 * kPageTokens + 1, 4));
  EXPECT_EQ(step(t), 1u);
  EXPECT_EQ(t.num_running(), 1);
}

TEST(PagePool, IdlePagesAreTheCachesAlone) {
  PagePool pool(4);
  const int32_t page = *pool.allocate();
  pool.retain_for_cache(page);
  EXPECT_EQ(pool.num_idle(), 0);
  pool.release(page);
  EXPECT_EQ(pool.num_idle(), 1);
  pool.retain(page);
  EXPECT_EQ(pool.num_idle(), 0);
  pool.release_from_cache(page);
  EXPECT_EQ(pool.num_idle(), 0);
  pool.release(page);
  EXPECT_EQ(pool.num_free(), 4);
  const int32_t again = *pool.allocate();
  pool.retain_for_cache(again);
  pool.release(again);
  pool.release_from_cache(again);
  EXPECT_EQ(pool.num_idle(), 0);
  EXPECT_EQ(pool.num_free(), 4);
}
}  // namespace
}  // namespace nibble
