#include "app/watchdog.h"

#include <gtest/gtest.h>

#include <chrono>

namespace nibble {
namespace {
// A model whose steps take that long.
class SlowModel final : public ForwardModel {
 public:
  explicit SlowModel(std::chrono::milliseconds step) : step_(step) {}
  int32_t vocab_size() const override { return 16; }
  const KvGeometry& kv_geometry() const override { return geometry_; }
  int32_t max_rows() const override { return 16; }
  void forward(const Step& step, float* logits) override {
    std::this_thread::sleep_for(step_);
    std::fill_n(logits, step.logit_rows.size() * 16, 0.0f);
  }

 private:
  std::chrono::milliseconds step_;
  KvGeometry geometry_{.page_tokens = 16, .num_full_pages = 8, .num_sliding_pages = 8, .sliding_window = 64, .full_page_bytes = 1, .sliding_page_bytes = 1};
};

void submit(Engine& engine, int32_t tokens) {
  auto request = std::make_unique<Request>();
  request->id = "one";
  request->prompt = {1, 2};
  request->max_tokens = tokens;
  request->on_token = [](TokenEvent&&) {};
  ASSERT_TRUE(engine.submit(std::move(request)));
}

void get_stuck() {
  SlowModel model(std::chrono::seconds(60));
  Engine engine(model, EngineOptions{});
  const Watchdog watchdog(engine, 0.1, 0.3);
  submit(engine, 4);
  std::this_thread::sleep_for(std::chrono::seconds(20));
}

TEST(WatchdogDeathTest, AStuckStepEndsTheProcess) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_EXIT(get_stuck(), testing::ExitedWithCode(Watchdog::kExitStatus), "no step has ended");
}

TEST(Watchdog, IdleAndBusyEnginesAreLeftAlone) {
  SlowModel model(std::chrono::milliseconds(20));
  Engine engine(model, EngineOptions{});
  const Watchdog watchdog(engine, 0.2, 0.4);
  std::this_thread::sleep_for(std::chrono::milliseconds(600));
  submit(engine, 30);
  std::this_thread::sleep_for(std::chrono::milliseconds(700));
}
}  // namespace
}  // namespace nibble
