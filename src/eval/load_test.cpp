#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <set>

#include "base/error.h"
#include "base/file_io.h"
#include "eval/load_metrics.h"
#include "eval/load_run.h"
#include "eval/reply_stream.h"
#include "eval/scripted_transport.h"

namespace nibble {
namespace {
using Json = nlohmann::ordered_json;
constexpr int64_t kMs = 1'000'000;

std::string event(const Json& json) { return "data: " + json.dump() + "\n\n"; }
std::string content(const std::string& text) { return event({{"choices", {{{"index", 0}, {"delta", {{"content", text}}}, {"finish_reason", nullptr}}}}}); }
std::string role() { return event({{"choices", {{{"index", 0}, {"delta", {{"role", "assistant"}, {"content", ""}}}, {"finish_reason", nullptr}}}}}); }
std::string finish(const std::string& why) { return event({{"choices", {{{"index", 0}, {"delta", {{"reasoning_content", nullptr}}}, {"finish_reason", why}}}}}); }
std::string usage(int prompt, int completion) { return event({{"choices", Json::array()}, {"usage", {{"prompt_tokens", prompt}, {"completion_tokens", completion}}}}); }
const std::string kDone = "data: [DONE]\n\n";

Workload prompts(int n) {
  Workload w{.name = "test"};
  for (int i = 0; i < n; ++i) w.prompts.push_back({.id = std::to_string(i), .category = i % 2 ? "odd" : "even", .turns = {"question " + std::to_string(i), "and then?"}});
  return w;
}

RequestRecord one(const ScriptedTransport::Script& script) {
  ScriptedTransport transport([&](const HttpCall&, size_t) { return script; });
  const Workload w = prompts(1);
  return run_load(transport, w, 0, 1, {}).records.at(0);
}

TEST(LoadByHand, ScriptedChunksGiveExactTimes) {
  const RequestRecord r = one({{5 * kMs, role()}, {20 * kMs, content("a")}, {30 * kMs, content("b")}, {45 * kMs, content("c")}, {50 * kMs, content("d")}, {51 * kMs, finish("stop")}, {60 * kMs, usage(7, 4) + kDone}});
  const RequestMetrics m = metrics_of(r);
  EXPECT_DOUBLE_EQ(*m.ttft, 20);
  EXPECT_DOUBLE_EQ(*m.ttst, 10);
  EXPECT_DOUBLE_EQ(*m.ttfo, 20);
  EXPECT_DOUBLE_EQ(*m.request_latency, 50);
  EXPECT_DOUBLE_EQ(*m.itl, 10);  // (50 - 20) / (4 - 1)
  EXPECT_EQ(m.icl, (std::vector<double>{10, 15, 5}));
  EXPECT_DOUBLE_EQ(*m.tok_s_user, 100);
  EXPECT_DOUBLE_EQ(*m.tok_s_e2e, 80);
  EXPECT_DOUBLE_EQ(*m.prefill_tok_s, 350);  // 7 / 20 ms
  EXPECT_EQ(r.finish_reason, "stop");
  EXPECT_STREQ(r.token_source(), "server");
  EXPECT_EQ(r.text, "abcd");
}

TEST(Load, EventsCutAnywhereAreTheSame) {
  const std::string all = role() + content("a") + content("b") + usage(3, 2) + kDone;
  for (size_t cut = 0; cut <= all.size(); ++cut) {
    const RequestRecord r = one({{10 * kMs, all.substr(0, cut)}, {10 * kMs, all.substr(cut)}});
    ASSERT_TRUE(r.ok()) << r.error;
    ASSERT_EQ(r.chunk_ns.size(), 2u);
    ASSERT_EQ(r.osl(), 2);
  }
}

TEST(Load, EventsThatLookAlikeAreReadAsIfEachWereTheFirst) {
  const auto delta = [](const Json& d, const Json& finish = nullptr, int index = 0) { return event({{"choices", {{{"index", index}, {"delta", d}, {"finish_reason", finish}}}}}); };
  std::vector<std::string> events{content("a"), content("bc"), content("\"quoted\""), content("back\\slash"), content("\u00e9"), content("line\nend"), content(""), content("d"),
                                  delta({{"content", "x"}, {"reasoning_content", nullptr}}), delta({{"content", "y"}, {"reasoning_content", nullptr}}),
                                  delta({{"content", "z"}, {"reasoning_content", "why"}}), delta({{"content", "z2"}, {"reasoning_content", "why"}}), delta({{"reasoning_content", "why"}}),
                                  delta({{"content", "end"}}, "stop"), delta({{"content", "end2"}}, "length"), delta({{"content", "e"}}, nullptr, 1), delta({{"content", "f"}}, nullptr, 1),
                                  delta({{"content", "content"}}), delta({{"content", "g"}, {"tool_calls", {{{"index", 0}}}}}), usage(3, 2),
                                  event({{"choices", {{{"delta", {{"content", "u"}}}}}}, {"usage", {{"completion_tokens", 9}}}}), event({{"choices", {{{"text", "t"}}}}}),
                                  event({{"choices", {{{"delta", {{"content", "h"}}}}, {{"delta", {{"content", "i"}}}}}}}), "data: {\"choices\":[{\"delta\":{\"content\" : \"s\"}}]}\n\n"};
  for (int seed = 0; seed < 200; ++seed) {
    std::mt19937 random(static_cast<uint32_t>(seed));
    ReplyStream one_stream;
    std::string text, thought, reason;
    std::vector<int64_t> times;
    int64_t first_content = 0;
    for (int i = 1; i <= 60; ++i) {
      const std::string& e = events[random() % (random() % 2 ? 3 : events.size())];
      one_stream.push(e, i);
      ReplyStream alone;
      alone.push(e, i);
      text += alone.content;
      thought += alone.reasoning;
      if (!alone.finish_reason.empty()) reason = alone.finish_reason;
      times.insert(times.end(), alone.chunk_ns.begin(), alone.chunk_ns.end());
      if (first_content == 0) first_content = alone.first_content_ns;
      ASSERT_EQ(one_stream.content, text) << e;
      ASSERT_EQ(one_stream.error, alone.error);
    }
    EXPECT_EQ(one_stream.reasoning, thought);
    EXPECT_EQ(one_stream.finish_reason, reason);
    EXPECT_EQ(one_stream.chunk_ns, times);
    EXPECT_EQ(one_stream.first_content_ns, first_content);
  }
}

TEST(Load, ReasoningCountsAsFirstTokenButNotAsFirstOutput) {
  const std::string thought = event({{"choices", {{{"index", 0}, {"delta", {{"reasoning_content", "hm"}}}}}}});
  const RequestMetrics m = metrics_of(one({{10 * kMs, thought}, {30 * kMs, content("x")}, {31 * kMs, usage(1, 2) + kDone}}));
  EXPECT_DOUBLE_EQ(*m.ttft, 10);
  EXPECT_DOUBLE_EQ(*m.ttfo, 30);
}

TEST(Load, UsageAndEmptyChunksMoveNothing) {
  const RequestMetrics m = metrics_of(one({{1 * kMs, role()}, {2 * kMs, content("")}, {3 * kMs, usage(1, 0)}, {10 * kMs, content("x")}, {20 * kMs, content("y")}, {90 * kMs, content("")}, {100 * kMs, usage(1, 2)}, {200 * kMs, kDone}}));
  EXPECT_DOUBLE_EQ(*m.ttft, 10);
  EXPECT_DOUBLE_EQ(*m.request_latency, 20);
  EXPECT_DOUBLE_EQ(*m.itl, 10);
}

TEST(Load, MultiTokenChunks) {
  const auto chunk = [](const std::string& text, int so_far) {
    Json e = {{"choices", {{{"index", 0}, {"delta", {{"content", text}}}}}}};
    if (so_far > 0) e["usage"] = {{"prompt_tokens", 1}, {"completion_tokens", so_far}};
    return event(e);
  };
  // 3 tokens, then 5 at once 40 ms later: 40 / (8 - 3) with usage on every chunk, 40 / (8 - 1) without.
  EXPECT_DOUBLE_EQ(*metrics_of(one({{10 * kMs, chunk("abc", 3)}, {50 * kMs, chunk("defgh", 8)}, {51 * kMs, usage(1, 8) + kDone}})).itl, 8);
  EXPECT_DOUBLE_EQ(*metrics_of(one({{10 * kMs, chunk("abc", 0)}, {50 * kMs, chunk("defgh", 0)}, {51 * kMs, usage(1, 8) + kDone}})).itl, 40.0 / 7);
}

TEST(Load, TokensWithoutTextTakeTheirTime) {
  // Chunks 5 ms apart, then 80 ms of tokens that show nothing: 9 tokens in 90 ms after the first.
  const RequestRecord r = one({{10 * kMs, content("a")}, {15 * kMs, content("b")}, {20 * kMs, content("c")}, {100 * kMs, usage(1, 10) + kDone}});
  EXPECT_DOUBLE_EQ(*metrics_of(r).itl, 10);
  EXPECT_DOUBLE_EQ(*metrics_of(r).request_latency, 100);
}

TEST(Load, NoContentNoLatency) {
  const RequestRecord r = one({{1 * kMs, role() + usage(4, 1) + kDone}});
  EXPECT_TRUE(r.ok());
  EXPECT_FALSE(metrics_of(r).ttft);
}

TEST(Load, BrokenStreamsAndErrorsFail) {
  EXPECT_EQ(one({{1 * kMs, content("x")}}).error, "the stream ended without [DONE]");
  EXPECT_EQ(one({{1 * kMs, event({{"error", {{"message", "no pages"}}}}) + kDone}}).error, "no pages");
}

ScriptedTransport::Script reply_of(size_t number) {
  const auto n = static_cast<int64_t>(number);
  return {{(10 + n % 7) * kMs, content("a")}, {(20 + n % 13) * kMs, content("b")}, {(30 + n % 29) * kMs, content("c") + finish("stop") + usage(5, 3) + kDone}};
}

TEST(ClosedLoop, HoldsExactlyCInFlight) {
  for (const int c : {1, 3, 8, 64}) {
    ScriptedTransport transport([](const HttpCall&, size_t n) { return reply_of(n); });
    const Workload w = prompts(40);
    const LoadResult result = run_load(transport, w, 0, 40, {.concurrency = c});
    EXPECT_EQ(result.records.size(), 40u);
    EXPECT_EQ(transport.max_in_flight, std::min(c, 40));
    EXPECT_EQ(result.max_in_flight, std::min(c, 40));
  }
}

TEST(OpenLoop, RateIsWithinTwoPercent) {
  ScriptedTransport transport([](const HttpCall&, size_t n) { return reply_of(n); });
  const Workload w = prompts(20000);
  const LoadResult result = run_load(transport, w, 0, 20000, {.rate = 50});
  const double seconds = static_cast<double>(transport.starts.back() - transport.starts.front()) / 1e9;
  EXPECT_NEAR(19999 / seconds, 50, 1);
  EXPECT_NEAR(result.offered_rate, 19999 / seconds, 1e-3);
}

TEST(MultiTurn, HistoryHoldsTheModelsOwnReplies) {
  ScriptedTransport transport([](const HttpCall&, size_t n) { return reply_of(n); });
  const Workload w = prompts(2);
  const LoadResult result = run_load(transport, w, 0, 2, {.concurrency = 1, .multi_turn = true});
  ASSERT_EQ(result.records.size(), 4u);
  EXPECT_EQ(result.records[1].id, "0#2");
  const Json second = Json::parse(transport.calls[1].body);
  EXPECT_EQ(second["messages"], Json::parse(R"([{"role":"user","content":"question 0"},{"role":"assistant","content":"abc"},{"role":"user","content":"and then?"}])"));
}

TEST(LoadRequest, HasTheProtocolsFields) {
  const Workload w = prompts(1);
  const Json body = Json::parse(request_body(w.prompts[0], {{"user", "q"}}, {.max_tokens = 9, .ignore_eos = true, .model = "m", .extra = R"({"top_k": 1})"}, 0));
  EXPECT_EQ(body, Json::parse(R"({"model":"m","messages":[{"role":"user","content":"q"}],"stream":true,"stream_options":{"include_usage":true},"temperature":0,"max_tokens":9,"ignore_eos":true,"top_k":1})"));
}

TEST(LoadMetrics, RecomputedFromRecordsAreEqual) {
  ScriptedTransport transport([](const HttpCall&, size_t n) { return reply_of(n); });
  const Workload w = prompts(30);
  const LoadResult result = run_load(transport, w, 0, 30, {.concurrency = 4});
  const Limits slo{{"ttft", 12}, {"itl", 100}};
  const Json metrics = load_metrics_json(result.records, slo);
  std::vector<RequestRecord> again;
  for (const RequestRecord& r : result.records) again.push_back(record_from_json(Json::parse(record_json(r).dump())));
  EXPECT_EQ(load_metrics_json(again, slo), metrics);
  // By hand: all 30 requests emit 3 tokens.
  int64_t first = INT64_MAX, last = 0;
  for (const RequestRecord& r : result.records) first = std::min(first, r.t0_ns), last = std::max(last, r.chunk_ns.back());
  EXPECT_DOUBLE_EQ(metrics["throughput"]["duration"], static_cast<double>(last - first) / 1e9);
  EXPECT_DOUBLE_EQ(metrics["throughput"]["output_token_throughput"], 90 / (static_cast<double>(last - first) / 1e9));
  EXPECT_EQ(metrics["latency"]["osl"]["mean"], 3);
  int64_t gaps = 0, requests = 0;
  for (const Json& n : metrics["histograms"]["icl"]["counts"]) gaps += n.get<int64_t>();
  for (const Json& n : metrics["histograms"]["itl"]["counts"]) requests += n.get<int64_t>();
  EXPECT_EQ(gaps, 60);
  EXPECT_EQ(requests, 30);
  EXPECT_EQ(metrics["by_category"]["even"]["n"], 15);
  EXPECT_GT(metrics["throughput"]["goodput"], 0);
  EXPECT_LT(metrics["throughput"]["goodput"], metrics["throughput"]["request_throughput"]);
  EXPECT_EQ(metrics["validity"]["degraded"], false);
}

TEST(SpeculationByHand, RatiosOfSums) {
  RequestRecord a, b;
  // 4 steps of 2 drafted: accepted 0, 1, 2, 2; and 1 step of 1 drafted: accepted 1.
  a.spec = SpeculationCounts{.steps = 4, .drafted = 8, .accepted = 5, .histogram = {1, 1, 2}, .per_step_drafted = {2, 2, 2, 2}, .per_step_accepted = {0, 1, 2, 2}};
  b.spec = SpeculationCounts{.steps = 1, .drafted = 1, .accepted = 1, .histogram = {0, 1, 0}, .per_step_drafted = {1}, .per_step_accepted = {1}};
  const auto s = speculation_of({a, b});
  ASSERT_TRUE(s);
  EXPECT_DOUBLE_EQ(s->acceptance_length, 1 + 6.0 / 5);
  EXPECT_DOUBLE_EQ(s->acceptance_length_per_request_mean, ((1 + 5.0 / 4) + 2) / 2);
  EXPECT_DOUBLE_EQ(s->acceptance_rate, 6.0 / 9);
  EXPECT_DOUBLE_EQ(s->accepted_per_verified, 11.0 / 14);
  EXPECT_EQ(s->histogram, (std::vector<int64_t>{1, 2, 2}));
  EXPECT_EQ(s->position_rate, (std::vector<double>{4.0 / 5, 2.0 / 4}));
  EXPECT_FALSE(speculation_of({}));
}

TEST(SpeculationByHand, FiveDraftedAndLengthThreeAndAHalfIsRateOneHalf) {
  RequestRecord r;
  r.spec = SpeculationCounts{.steps = 2, .drafted = 10, .accepted = 5, .histogram = {0, 0, 1, 1, 0, 0}};
  const auto s = speculation_of({r});
  EXPECT_DOUBLE_EQ(s->acceptance_length, 3.5);
  EXPECT_DOUBLE_EQ(s->acceptance_rate, 0.5);
  EXPECT_EQ(s->position_rate, (std::vector<double>{1, 1, 0.5, 0, 0}));
}

std::filesystem::path file_of(const std::string& text) {
  const auto path = std::filesystem::path(testing::TempDir()) / ("workload-" + std::to_string(::getpid()) + ".jsonl");
  write_file(path, text);
  return path;
}

TEST(WorkloadFile, RefusesWhatIsNoPrompt) {
  const std::string id(32, 'a');
  const auto row = [](const std::string& i, const std::string& category, const std::string& text) { return Json{{"question_id", i}, {"category", category}, {"messages", {{{"role", "user"}, {"content", text}}}}}.dump() + "\n"; };
  const auto message = [](const std::string& text) {
    try {
      load_workload(file_of(text));
    } catch (const Error& error) {
      return error.message.substr(error.message.find(".jsonl") + 6);
    }
    return std::string("accepted");
  };
  EXPECT_EQ(message(row(id, "math", "1 + 1?")), "accepted");
  EXPECT_NE(message(row(id, "math", "FULL BENCHMARK DATA SHOULD BE FETCHED FROM THE SOURCE using ...")).find("placeholder"), std::string::npos);
  EXPECT_EQ(message(row("short", "math", "x")), ":1: question_id 'short' has 5 characters, wanted 32");
  EXPECT_EQ(message(row(id, "math", "x") + row(id, "math", "y")), ":2: question_id '" + id + "' came before");
  EXPECT_EQ(message(row(id, "", "x")), ":1: wanted 'category', a non-empty string");
  EXPECT_EQ(message(row(id, "math", "")), ":1: wanted 'content', a non-empty string");
}

TEST(WorkloadFile, OursHasElevenTimesEighty) {
  const Workload w = load_workload(std::filesystem::path(NIBBLE_REPO_DIR) / "bench/workloads/qualitative.jsonl");
  ASSERT_EQ(w.prompts.size(), 880u);
  std::map<std::string, int> counts;
  std::set<std::string> texts;
  for (const WorkloadPrompt& p : w.prompts) ++counts[p.category], texts.insert(p.turns[0]);
  EXPECT_EQ(texts.size(), 880u);
  EXPECT_EQ(counts.size(), 11u);
  for (const auto& [category, n] : counts) EXPECT_EQ(n, 80) << category;
}

TEST(WorkloadOrder, DependsOnTheSeedAlone) {
  Workload a = words_workload(50, 5, 1), b = a, c = a;
  shuffle_workload(a, 42);
  shuffle_workload(b, 42);
  shuffle_workload(c, 43);
  const auto ids = [](const Workload& w) {
    std::vector<std::string> out;
    for (const auto& p : w.prompts) out.push_back(p.id);
    return out;
  };
  EXPECT_EQ(ids(a), ids(b));
  EXPECT_NE(ids(a), ids(c));
  auto sorted = ids(a);
  std::sort(sorted.begin(), sorted.end());
  EXPECT_EQ(sorted, ids(words_workload(50, 5, 1)));
}

TEST(Sha256, PublishedVectors) {
  EXPECT_EQ(sha256_hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256_hex(std::string(1000000, 'a')), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}
}  // namespace
}  // namespace nibble
