// The engine's promise: the same request gives the same tokens and the same bits, alone, in a crowd, cut in any way, preempted, or from a warm cache; and every
// page comes back.
#include "engine/engine.h"

#include <gtest/gtest.h>

#include "base/test_paths.h"
#include "engine/engine_test_kit.h"
#include "formats/model_config.h"
#include "model/model.h"

namespace nibble {
namespace {
TEST(Engine, AReplyIsTheSameAloneInACrowdInChunksPreemptedAndFromAWarmCache) {
  constexpr int kRequests = 40;
  constexpr int32_t kWindow = 40;
  std::vector<std::vector<int32_t>> prompts;
  std::vector<Reply> want;
  PageHashModel roomy(512, 512, kWindow);
  for (int i = 0; i < kRequests; ++i) {
    prompts.push_back(prompt_of(static_cast<uint32_t>(i + 1), 5 + i * 7 % 150, 64));
    want.push_back(alone(roomy, prompts.back(), 20, static_cast<uint64_t>(i)));
    EXPECT_EQ(want.back().ids.size(), 20u);
  }
  struct Variant {
    int32_t full_pages, sliding_pages, chunk;
    bool cache;
  };
  // The tight pools hold about two sequences: preemption is certain.
  for (const Variant& v : {Variant{512, 512, 64, true}, Variant{512, 512, 3, false}, Variant{24, 24, 16, true}, Variant{24, 14, 16, false}, Variant{60, 20, 32, true}}) {
    PageHashModel model(v.full_pages, v.sliding_pages, kWindow);
    EngineOptions options;
    options.chunked_prefill_tokens = v.chunk;
    options.prefix_cache = v.cache;
    Engine engine(model, options);
    for (int round = 0; round < 2; ++round) {  // the second round finds its prefixes in the cache
      Collector collector;
      for (int i = 0; i < kRequests; ++i) ASSERT_TRUE(engine.submit(collector.request(std::to_string(i), prompts[static_cast<size_t>(i)], 20, static_cast<uint64_t>(i))).has_value());
      ASSERT_TRUE(collector.wait_for(kRequests));
      for (int i = 0; i < kRequests; ++i) ASSERT_EQ(collector.reply(std::to_string(i)), want[static_cast<size_t>(i)]) << "request " << i << ", pages " << v.full_pages << ", round " << round;
    }
    if (v.full_pages == 24) EXPECT_GT(engine.stats().retracted, 0);
    if (v.cache && v.full_pages == 512) EXPECT_GT(engine.stats().cached_tokens, 0);
    expect_no_leak(engine);
  }
}

TEST(Engine, ChoicesShareThePromptAndAreWhatSeparateRequestsWouldGive) {
  PageHashModel model(256, 256, 40);
  const auto prompt = prompt_of(3, 50);
  for (const bool cache : {true, false}) {
    EngineOptions options;
    options.prefix_cache = cache;
    Engine engine(model, options);
    Collector collector;
    auto request = collector.request("n", prompt, 12, 5);
    request->num_choices = 4;
    ASSERT_TRUE(engine.submit(std::move(request)).has_value());
    ASSERT_TRUE(collector.wait_for(4));
    EXPECT_EQ(collector.reply("n", 0), alone(model, prompt, 12, 5));
    for (int choice = 1; choice < 4; ++choice) {
      EXPECT_EQ(collector.reply("n", choice).ids.size(), 12u);
      EXPECT_NE(collector.reply("n", choice).ids, collector.reply("n", 0).ids);
    }
    expect_no_leak(engine);
  }
}

TEST(Engine, AMultiTurnChatHitsTheCacheThoughItsWindowMovedOn) {
  PageHashModel model(512, 512, 40);
  Engine engine(model, {});
  Collector collector;
  std::vector<int32_t> history = prompt_of(1, 200);
  for (int turn = 0; turn < 3; ++turn) {
    ASSERT_TRUE(engine.submit(collector.request(std::to_string(turn), history, 30, 1)).has_value());
    ASSERT_TRUE(collector.wait_for(turn + 1));
    const auto before = engine.stats().cached_tokens;
    const Reply reply = collector.reply(std::to_string(turn));
    history.insert(history.end(), reply.ids.begin(), reply.ids.end());
    const auto question = prompt_of(static_cast<uint32_t>(turn + 10), 20);
    history.insert(history.end(), question.begin(), question.end());
    if (turn > 0) EXPECT_GT(before, 200);
  }
}

TEST(Engine, StopIdsMinTokensAndLimitsEndAReply) {
  PageHashModel model(64, 64, 40);
  const auto prompt = prompt_of(2, 10);
  const Reply free_running = alone(model, prompt, 30, 7);
  EXPECT_EQ(free_running.finish, FinishReason::length);
  Engine engine(model, {});
  Collector collector;
  const int32_t stop = free_running.ids[5];
  const auto first = static_cast<size_t>(std::find(free_running.ids.begin(), free_running.ids.end(), stop) - free_running.ids.begin());
  auto stopped = collector.request("stop", prompt, 30, 7);
  stopped->stop_ids = {stop};
  auto ignoring = collector.request("ignore", prompt, 30, 7);
  ignoring->stop_ids = {stop};
  ignoring->ignore_eos = true;
  auto late = collector.request("late", prompt, 30, 7);
  late->stop_ids = {stop};
  late->min_tokens = 12;
  for (auto* r : {&stopped, &ignoring, &late}) ASSERT_TRUE(engine.submit(std::move(*r)).has_value());
  ASSERT_TRUE(collector.wait_for(3));
  EXPECT_EQ(collector.reply("stop").finish, FinishReason::stop_token);
  EXPECT_EQ(collector.reply("stop").ids.size(), first + 1);
  EXPECT_EQ(collector.reply("ignore").ids, free_running.ids);
  EXPECT_GE(collector.reply("late").ids.size(), 12u);
  for (size_t i = 0; i < 12; ++i) EXPECT_NE(collector.reply("late").ids[i], stop);
}

TEST(Engine, HundredsOfRequestsCancelledAtRandomReturnEveryPage) {
  PageHashModel model(64, 48, 40);
  EngineOptions options;
  options.max_running_requests = 16;
  options.chunked_prefill_tokens = 24;
  Engine engine(model, options);
  Collector collector;
  std::mt19937 random(1);
  constexpr int kRequests = 300;
  std::vector<std::thread> threads;
  std::atomic<int> accepted{0};
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 own(static_cast<unsigned>(t));
      for (int i = t; i < kRequests; i += 3) {
        auto request = collector.request(std::to_string(i), prompt_of(own() % 20, 1 + static_cast<int32_t>(own() % 100), 48), 1 + static_cast<int32_t>(own() % 40), own());
        request->num_choices = own() % 5 == 0 ? 3 : 1;
        const int choices = request->num_choices;
        if (engine.submit(std::move(request))) accepted += choices;
        if (own() % 2) engine.cancel(std::to_string(own() % static_cast<unsigned>(i + 1)));
        if (own() % 8 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(engine.drain(60));
  expect_no_leak(engine);
  EXPECT_FALSE(engine.submit(collector.request("late", {1}, 1, 1)).has_value());
}

// A client that left late must not take a newer request of the same id with it.
TEST(Engine, AHandleOutlivesItsRequestWithoutHarm) {
  PageHashModel model(64, 48, 40);
  Engine engine(model, {});
  for (int round = 0; round < 50; ++round) {
    Collector first, second;
    const auto handle = engine.submit(first.request("same", prompt_of(1, 5), 2, 1));
    ASSERT_TRUE(handle.has_value());
    ASSERT_TRUE(first.wait_for(1));
    ASSERT_TRUE(engine.submit(second.request("same", prompt_of(2, 5), 20, 1)).has_value());
    engine.cancel(*handle, /*silent=*/true);
    ASSERT_TRUE(second.wait_for(1));
    EXPECT_EQ(second.reply("same").finish, FinishReason::length);
  }
  expect_no_leak(engine);
}

TEST(Engine, RefusesWhatCanNeverRunAndWhatTheQueueCannotHold) {
  PageHashModel model(4, 8, 40);
  EngineOptions options;
  options.max_queued_requests = 0;
  Engine none(model, options);
  Collector collector;
  EXPECT_EQ(none.submit(collector.request("a", {1}, 1, 1)).error().code, ErrorCode::unavailable);
  Engine engine(model, {});
  EXPECT_EQ(engine.submit(collector.request("long", prompt_of(1, 64), 1, 1)).error().code, ErrorCode::invalid_argument);
  // A reply that outgrows the pool ends with `length` instead of never.
  ASSERT_TRUE(engine.submit(collector.request("grows", prompt_of(1, 40), 1000, 1)).has_value());
  ASSERT_TRUE(collector.wait_for(1));
  EXPECT_EQ(collector.reply("grows").finish, FinishReason::length);
}

// The same promise with the real model: bit-equal logprobs.
TEST(EngineWithModel, LoadChunksCacheAndPreemptionDoNotChangeABit) {
  const auto folder = test_data("model/tiny");
  const std::string text = read_config_json(folder);
  const ModelConfig config = parse_model_config(text, "tiny");
  const ModelWeights weights = ModelWeights::load(folder, config, {});
  for (const DType cache : {DType::bf16, DType::e4m3}) {
    const auto backend = make_cpu_backend({.num_threads = 2});
    const auto make = [&](int32_t pages, int32_t rows) {
      return std::make_unique<Gemma4Model>(config, weights, ModelOptions{.activations = DType::bf16, .kv_cache = cache, .num_full_pages = pages, .num_sliding_pages = pages, .max_rows = rows}, *backend);
    };
    constexpr int kRequests = 12;
    std::vector<Reply> want;
    std::vector<std::vector<int32_t>> prompts;
    const auto roomy = make(200, 128);
    for (int i = 0; i < kRequests; ++i) {
      prompts.push_back(prompt_of(static_cast<uint32_t>(i), 10 + i * 11, 40));
      for (int32_t& id : prompts.back()) id += 3;
      want.push_back(alone(*roomy, prompts.back(), 16, static_cast<uint64_t>(i)));
    }
    struct Variant {
      int32_t pages, rows, chunk;
    };
    for (const Variant& v : {Variant{200, 128, 128}, Variant{200, 32, 7}, Variant{20, 64, 48}}) {
      const auto model = make(v.pages, v.rows);
      EngineOptions options;
      options.chunked_prefill_tokens = v.chunk;
      Engine engine(*model, options);
      for (int round = 0; round < 2; ++round) {
        Collector collector;
        for (int i = 0; i < kRequests; ++i) ASSERT_TRUE(engine.submit(collector.request(std::to_string(i), prompts[static_cast<size_t>(i)], 16, static_cast<uint64_t>(i))).has_value());
        ASSERT_TRUE(collector.wait_for(kRequests));
        for (int i = 0; i < kRequests; ++i) ASSERT_EQ(collector.reply(std::to_string(i)), want[static_cast<size_t>(i)]) << "request " << i << ", pages " << v.pages << ", round " << round;
      }
      expect_no_leak(engine);
    }
  }
}
// A model whose steps take their time.
class SlowModel final : public ForwardModel {
 public:
  explicit SlowModel(PageHashModel& inner) : inner_(inner) {}
  int32_t vocab_size() const override { return inner_.vocab_size(); }
  const KvGeometry& kv_geometry() const override { return inner_.kv_geometry(); }
  int32_t max_rows() const override { return inner_.max_rows(); }
  void forward(const Step& step, float* logits) override {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    inner_.forward(step, logits);
  }

 private:
  PageHashModel& inner_;
};

TEST(Engine, ADrainWaitsForTheFirstStepAfterIdleness) {
  PageHashModel pages(64, 64, 40);
  SlowModel model(pages);
  Engine engine(model, {});
  std::this_thread::sleep_for(std::chrono::milliseconds(20));  // idle
  Collector collector;
  ASSERT_TRUE(engine.submit(collector.request("r", prompt_of(1, 5), 2, 1)).has_value());
  std::this_thread::sleep_for(std::chrono::milliseconds(30));  // in its first step
  EXPECT_FALSE(engine.drain(0.02));
  EXPECT_TRUE(engine.drain(5));
  EXPECT_EQ(collector.reply("r").finish, FinishReason::length);
}
}  // namespace
}  // namespace nibble
