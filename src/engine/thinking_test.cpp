// The thinking budget and the loop detector, alone and in the engine, with and without drafts.
#include "engine/thinking.h"

#include <gtest/gtest.h>

#include "engine/engine_test_kit.h"
#include "engine/repetition_guard.h"

namespace nibble {
namespace {
constexpr int32_t kOpen = 90, kClose = 91;

TEST(ThoughtState, CountsFromTheOpeningMarkerAndClosesWhenTheBudgetIsUsedUp) {
  const ThinkingBudget budget{.max_tokens = 3, .open_id = kOpen, .close_id = kClose, .starts_open = false};
  ThoughtState state = ThoughtState::at_start(budget);
  state.push(budget, 1);
  EXPECT_EQ(state.tokens, 0);
  for (const int32_t id : {kOpen, 1}) state.push(budget, id);
  EXPECT_FALSE(state.must_close(budget));
  state.push(budget, 2);
  EXPECT_TRUE(state.must_close(budget));
  state.push(budget, kClose);
  EXPECT_FALSE(state.must_close(budget));
  EXPECT_TRUE(state.is_used_up(budget));  // no second thought may be opened
  EXPECT_FALSE(ThoughtState{}.is_used_up({}));
}

// Which of the tokens lie in thoughts, markers included.
int32_t thought_tokens(const std::vector<int32_t>& ids, bool open) {
  int32_t count = 0;
  for (const int32_t id : ids) {
    open |= id == kOpen;
    count += open;
    open &= id != kClose;
  }
  return count;
}

Reply reply_within(const ThinkingBudget& budget, uint32_t prompt, DraftModel* drafter, PageHashModel& model, float bias_to_open) {
  EngineOptions options;
  options.drafter = drafter;
  options.speculation.max_drafts = drafter ? 4 : 0;
  options.speculation.adaptive = false;
  Collector collector;
  Engine engine(model, options);
  auto request = collector.request("r", prompt_of(prompt, 20), 60, prompt);
  request->thinking = budget;
  request->sampling.logit_bias = {{kOpen, bias_to_open}};
  EXPECT_TRUE(engine.submit(std::move(request)).has_value());
  EXPECT_TRUE(collector.wait_for(1));
  return collector.reply("r");
}

TEST(ThinkingBudget, HoldsAndClosesWithTheSameBitsWhateverIsDrafted) {
  PageHashModel model(256, 256, 40);
  int forced = 0;
  for (uint32_t prompt = 1; prompt <= 12; ++prompt) {
    for (const bool starts_open : {false, true}) {
      const ThinkingBudget budget{.max_tokens = 7, .open_id = kOpen, .close_id = kClose, .starts_open = starts_open};
      const Reply plain = reply_within(budget, prompt, nullptr, model, 3.0f);
      ASSERT_EQ(plain.ids.size(), 60u);
      const int32_t thought = thought_tokens(plain.ids, starts_open);
      EXPECT_LE(thought, budget.max_tokens + 1);
      forced += thought == budget.max_tokens + 1;
      // Without a budget the same prompts think for longer.
      EXPECT_GT(thought_tokens(reply_within({}, prompt, nullptr, model, 3.0f).ids, starts_open), budget.max_tokens + 1);
      KnowingDrafter drafter(model, 3);
      std::vector<int32_t> whole = prompt_of(prompt, 20);
      whole.insert(whole.end(), plain.ids.begin(), plain.ids.end());
      drafter.learn(whole);
      EXPECT_EQ(reply_within(budget, prompt, &drafter, model, 3.0f), plain) << "prompt " << prompt;
    }
  }
  EXPECT_GT(forced, 0);
}

TEST(ThinkingBudget, OfNothingAllowsNoThought) {
  PageHashModel model(64, 64, 40);
  const Reply reply = reply_within({.max_tokens = 0, .open_id = kOpen, .close_id = kClose, .starts_open = false}, 5, nullptr, model, 50.0f);
  EXPECT_EQ(thought_tokens(reply.ids, false), 0);
  EXPECT_EQ(reply_within({.max_tokens = 0, .open_id = kOpen, .close_id = kClose, .starts_open = true}, 5, nullptr, model, 0.0f).ids[0], kClose);
}

int32_t first_loop(const std::vector<int32_t>& tokens) {
  RepetitionGuard guard;
  for (size_t n = 1; n <= tokens.size(); ++n) {
    if (guard.push(std::span(tokens).first(n)) > 0) return static_cast<int32_t>(n);
  }
  return -1;
}

TEST(RepetitionGuard, FindsLoopsOfEveryPeriodAtTheirLimitAndNotBefore) {
  for (int32_t period = 1; period <= RepetitionGuard::kMaxPeriod; ++period) {
    std::vector<int32_t> tokens{-1, -2, -3};  // before the loop
    for (int32_t i = 0; i < 2000; ++i) tokens.push_back(i % period);
    const int32_t wanted = std::max(RepetitionGuard::kMinTokens, RepetitionGuard::kMinRepeats * period);
    EXPECT_EQ(first_loop(tokens), 3 + wanted) << period;
    std::vector<int32_t> broken = tokens;
    broken.resize(static_cast<size_t>(3 + wanted - 1));
    EXPECT_EQ(first_loop(broken), -1) << period;
  }
}

TEST(RepetitionGuard, LetsTablesAndCountingPass) {
  std::vector<int32_t> table;
  for (int32_t row = 0; row < 500; ++row) table.insert(table.end(), {1, row % 97 + 10, 1, row / 97 + 200, 2});  // rows of one shape with other numbers
  EXPECT_EQ(first_loop(table), -1);
  std::vector<int32_t> longer(3000);
  for (size_t i = 0; i < longer.size(); ++i) longer[i] = static_cast<int32_t>(i % 65);  // the period is past the longest
  EXPECT_EQ(first_loop(longer), -1);
}

TEST(RepetitionGuard, EndsARequestOnlyWhereItIsWanted) {
  PageHashModel model(256, 256, 40);
  for (const bool wanted : {false, true}) {
    Collector collector;
    Engine engine(model, {});
    auto request = collector.request("loop", prompt_of(1, 10), 400, 1);
    request->stops_at_loops = wanted;
    request->sampling.logit_bias = {{7, 100.0f}};
    ASSERT_TRUE(engine.submit(std::move(request)).has_value());
    ASSERT_TRUE(collector.wait_for(1));
    const Reply reply = collector.reply("loop");
    EXPECT_EQ(reply.finish, wanted ? FinishReason::repetition : FinishReason::length);
    EXPECT_EQ(static_cast<int32_t>(reply.ids.size()), wanted ? RepetitionGuard::kMinTokens : 400);
    expect_no_leak(engine);
  }
}
}  // namespace
}  // namespace nibble
