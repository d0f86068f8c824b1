// Steps that fail: one that only takes its requests with it, and one after which nothing can be computed any more.
#include <gtest/gtest.h>

#include <atomic>
#include <latch>

#include "engine/engine_test_kit.h"

namespace nibble {
namespace {
class FailingModel final : public ForwardModel {
 public:
  struct Plan {
    int first = 0, count = 0;  // steps that fail
    ErrorCode code = ErrorCode::internal;
    bool lost = false;
    std::latch* after = nullptr;  // no step fails before
  };
  FailingModel(PageHashModel& inner, Plan plan) : inner_(inner), plan_(plan) {}
  int32_t vocab_size() const override { return inner_.vocab_size(); }
  const KvGeometry& kv_geometry() const override { return inner_.kv_geometry(); }
  int32_t max_rows() const override { return inner_.max_rows(); }
  bool is_lost() override { return plan_.lost; }
  void forward(const Step& step, float* logits) override {
    const int number = steps_++;
    if (number >= plan_.first && number < plan_.first + plan_.count) {
      if (plan_.after) plan_.after->wait();
      raise(plan_.code, "an injected fault");
    }
    inner_.forward(step, logits);
  }

 private:
  PageHashModel& inner_;
  Plan plan_;
  int steps_ = 0;
};

struct Outcome {
  int aborted = 0, complete = 0, told = 0;
  bool refused = false;
  EngineStats stats;
};

// Requests one after the other, then two more at once.
Outcome run(FailingModel::Plan plan, int requests) {
  PageHashModel pages(64, 64, 40);
  FailingModel model(pages, plan);
  std::atomic<int> told{0};
  EngineOptions options;
  options.on_failure = [&](const std::string& why) {
    EXPECT_NE(why.find("injected"), std::string::npos);
    ++told;
  };
  Engine engine(model, options);
  Collector collector;
  Outcome out;
  for (int i = 0; i < requests && !out.refused; ++i) {
    const auto submitted = engine.submit(collector.request(std::to_string(i), prompt_of(static_cast<uint32_t>(i), 5), 4, 1));
    if (!submitted) {
      out.refused = true;
      EXPECT_EQ(submitted.error().code, ErrorCode::unavailable);
      break;
    }
    EXPECT_TRUE(collector.wait_for(i + 1));
    (collector.reply(std::to_string(i)).finish == FinishReason::abort ? out.aborted : out.complete) += 1;
  }
  EXPECT_TRUE(engine.drain(5));
  out.told = told;
  out.stats = engine.stats();
  return out;
}

TEST(Failure, OneStepTakesItsOwnRequestsOnly) {
  const Outcome out = run({.first = 2, .count = 1}, 6);
  EXPECT_EQ(out.aborted, 1);
  EXPECT_EQ(out.complete, 5);
  EXPECT_EQ(out.told, 0);
  EXPECT_FALSE(out.stats.failed || out.refused);
}

TEST(Failure, WantOfMemoryIsNeverTheEnd) {
  const Outcome out = run({.first = 2, .count = 20, .code = ErrorCode::out_of_memory}, 30);
  EXPECT_EQ(out.aborted, 20);
  EXPECT_FALSE(out.stats.failed || out.refused);
}

TEST(Failure, StepAfterStepEndsTheEngine) {
  const Outcome out = run({.first = 2, .count = 1000}, 30);
  EXPECT_EQ(out.aborted, 5);
  EXPECT_EQ(out.told, 1);
  EXPECT_TRUE(out.stats.failed && out.refused);
}

TEST(Failure, ALostDeviceEndsAllAndIsToldOnce) {
  PageHashModel pages(256, 256, 40);
  std::latch all_in(1);
  FailingModel model(pages, {.first = 8, .count = 1, .lost = true, .after = &all_in});
  std::atomic<int> told{0};
  EngineOptions options;
  options.max_running_requests = 2;  // the others wait
  options.on_failure = [&](const std::string&) { ++told; };
  Engine engine(model, options);
  Collector collector;
  for (uint32_t i = 0; i < 6; ++i) {
    auto request = collector.request(std::to_string(i), prompt_of(i, 10), 50, 1);
    request->num_choices = i == 5 ? 3 : 1;  // not begun: ends as one
    EXPECT_TRUE(engine.submit(std::move(request)).has_value());
  }
  all_in.count_down();
  ASSERT_TRUE(collector.wait_for(6));
  for (uint32_t i = 0; i < 6; ++i) EXPECT_EQ(collector.reply(std::to_string(i)).finish, FinishReason::abort);
  EXPECT_TRUE(engine.drain(5));
  EXPECT_EQ(told, 1);
  EXPECT_FALSE(engine.flush_cache());
  const EngineStats stats = engine.stats();
  EXPECT_TRUE(stats.failed);
  EXPECT_EQ(stats.running + stats.queued, 0);
}
}  // namespace
}  // namespace nibble
