#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file_io.h"
#include "base/test_paths.h"
#include "eval/eval_run.h"
#include "eval/json_schema.h"
#include "eval/scripted_transport.h"

namespace nibble {
namespace {
using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

fs::path fresh_folder(const std::string& name) {
  const fs::path folder = fs::path(testing::TempDir()) / (name + "-" + std::to_string(::getpid()));
  fs::remove_all(folder);
  fs::create_directories(folder);
  return folder;
}

TEST(Gsm8k, OfficialSplitConverts) {
  NB_SKIP_WITHOUT_SHARED(file, "data/gsm8k/test.jsonl");
  const EvalTask task = load_gsm8k(file, 0);
  EXPECT_TRUE(task.official);
  ASSERT_EQ(task.items.size(), 1319u);
  int64_t sum = 0;
  std::vector<size_t> negative, commas;
  for (size_t i = 0; i < task.items.size(); ++i) {
    const std::string gold = task.items[i].expected_text();
    EXPECT_EQ(std::to_string(std::stoll(gold)), gold);
    sum += std::stoll(gold);
    if (gold[0] == '-') negative.push_back(i);
    EXPECT_EQ(task.items[i].id, "gsm8k-" + std::to_string(i));
  }
  EXPECT_EQ(sum, 9009187);
  EXPECT_EQ(negative, (std::vector<size_t>{489, 1113}));
  EXPECT_EQ(task.items[489].expected_text(), "-10");
  EXPECT_EQ(task.items[1113].expected_text(), "-3");
  const std::string text = read_file(file);
  size_t at = 0;
  for (size_t i = 0; at < text.size(); ++i) {
    const size_t end = text.find('\n', at);
    const std::string answer = Json::parse(text.substr(at, end - at))["answer"];
    if (answer.find(',', answer.find("####")) != std::string::npos) commas.push_back(i);
    at = end + 1;
  }
  EXPECT_EQ(commas, (std::vector<size_t>{146, 201, 230, 249, 505, 610, 611, 640, 642, 819, 829, 997, 1009, 1206}));
  EXPECT_EQ(load_gsm8k(file, 5).items.size(), 5u);
  EXPECT_TRUE(load_gsm8k(file, 5).partial_set);
}

TEST(Gsm8k, RequestIsTheStoredOne) {
  const fs::path folder = fresh_folder("gsm8k");
  write_file(folder / "t.jsonl", R"({"question": "Two  blanks stay.\nHow many?", "answer": "1+1=2\n#### 2,125"})" "\n" R"({"problem": "p", "expected_answer": 3})" "\n");
  const EvalTask task = load_gsm8k(folder / "t.jsonl", 0);
  EXPECT_FALSE(task.official);
  EXPECT_EQ(task.items[0].expected_text(), "2125");
  EXPECT_EQ(task.items[1].id, "custom-1");
  EXPECT_EQ(task.items[1].expected_text(), "3");
  EXPECT_EQ(eval_request(task, task.items[0], {.model = "m"}, 0),
            R"({"model":"m","messages":[{"role":"user","content":"Solve the following math problem. Make sure to put the answer (and only answer) inside \\boxed{}.\n\nTwo  blanks stay.\nHow many?"}],)"
            R"("temperature":0.0,"top_p":0.95,"min_p":0.0,"repetition_penalty":1.0})");
  EXPECT_THROW(gsm8k_gold("#### 1 #### 2"), Error);
  write_file(folder / "twice.jsonl", R"({"problem": "p", "expected_answer": 3, "id": "a"})" "\n" R"({"problem": "q", "expected_answer": 3, "id": "a"})" "\n");
  EXPECT_THROW(load_gsm8k(folder / "twice.jsonl", 0), Error);
}

std::string chat_reply(const std::string& content, const std::string& finish = "stop") {
  return Json{{"choices", {{{"index", 0}, {"message", {{"role", "assistant"}, {"content", content}, {"reasoning_content", "hm"}}}, {"finish_reason", finish}}}},
              {"usage", {{"prompt_tokens", 11}, {"completion_tokens", 5}, {"completion_tokens_details", {{"reasoning_tokens", 2}}}}}}.dump();
}

EvalTask small_task(int n) {
  EvalTask task{.name = "small"};
  for (int i = 0; i < n; ++i) {
    task.items.push_back({.id = "s-" + std::to_string(i), .problem = std::to_string(i), .messages = Json::array({{{"role", "user"}, {"content", std::to_string(i)}}}).dump(), .expected = std::to_string(i)});
  }
  return task;
}

// Answers right for even items; item 3 is cut off, item 5 says nothing boxed.
ScriptedTransport::Script oracle(const HttpCall& call, size_t) {
  const int i = std::stoi(Json::parse(call.body)["messages"][0]["content"].get<std::string>());
  const std::string text = i == 5 ? "no idea" : "\\boxed{" + std::to_string(i % 2 ? i + 1 : i) + "}";
  return {{1000, chat_reply(text, i == 3 ? "length" : "stop")}};
}

TEST(EvalRun, ScoresAndRates) {
  const fs::path folder = fresh_folder("eval");
  const EvalTask task = small_task(10);
  ScriptedTransport transport(oracle);
  const EvalPlan plan{.concurrency = 3};
  const EvalResult result = run_eval(transport, task, plan, folder, {}, {});
  EXPECT_EQ(transport.max_in_flight, 3);
  const Json m = eval_metrics_json(task, plan, result);
  EXPECT_DOUBLE_EQ(m["aggregate"]["score"], 0.5);
  EXPECT_DOUBLE_EQ(m["aggregate"]["truncated_rate"], 0.1);
  EXPECT_DOUBLE_EQ(m["aggregate"]["no_answer"], 0.1);
  EXPECT_DOUBLE_EQ(m["score_se"], score_error(0.5, 10));
  EXPECT_EQ(m["total_completion_tokens"], 50);
  EXPECT_EQ(m["token_usage"]["reasoning_tokens"]["mean"], 2);
  EXPECT_EQ(m["partial"], false);
  EXPECT_EQ(eval_warnings(m, plan).size(), 2u);
  // The file holds what metrics say.
  const std::vector<EvalSample> stored = read_samples(folder / "output-rs0.jsonl");
  EXPECT_EQ(stored.size(), 10u);
  for (const EvalSample& s : stored) {
    const Mark again = mark_reply({.expected = Json(s.expected).dump()}, {.content = s.generation});
    EXPECT_EQ(again.mark == 1, s.correct);
    EXPECT_EQ(again.answer, s.predicted);
  }
  EXPECT_EQ(compare_samples(stored, result.repeats[0]).b, 0);
}

TEST(EvalRun, ResumesWhereItWasCutOff) {
  const fs::path folder = fresh_folder("resume");
  const EvalTask task = small_task(8);
  ScriptedTransport first(oracle);
  int polls = 0;
  const EvalResult partial = run_eval(first, task, {.concurrency = 1}, folder, {}, [&] { return ++polls > 3; });
  EXPECT_TRUE(partial.partial);
  EXPECT_EQ(eval_metrics_json(task, {}, partial)["partial"], true);
  const size_t kept = read_samples(folder / "output-rs0.jsonl").size();
  ASSERT_GT(kept, 0u);
  ASSERT_LT(kept, 8u);
  write_file(folder / "output-rs0.jsonl", read_file(folder / "output-rs0.jsonl") + R"({"id": "s-7", "generat)");  // a crash in the middle of a line
  ScriptedTransport second(oracle);
  const EvalResult whole = run_eval(second, task, {.concurrency = 2}, folder, {}, {});
  EXPECT_EQ(second.calls.size(), 8 - kept);
  EXPECT_FALSE(whole.partial);
  EXPECT_EQ(read_samples(folder / "output-rs0.jsonl").size(), 8u);
}

TEST(EvalRun, FailuresAreTriedAgainAndCountAsWrong) {
  const EvalTask task = small_task(2);
  ScriptedTransport broken([](const HttpCall&, size_t) -> ScriptedTransport::Script { return {{10, "no"}}; }, 503);
  const EvalPlan plan{.max_tries = 3, .first_wait_seconds = 0.0};
  const EvalResult result = run_eval(broken, task, plan, fresh_folder("broken"), {}, {});
  EXPECT_EQ(broken.calls.size(), 6u);
  EXPECT_EQ(result.repeats[0][0].finish_reason, "error");
  EXPECT_DOUBLE_EQ(eval_metrics_json(task, plan, result)["aggregate"]["error_rate"], 1);
  ScriptedTransport bad([](const HttpCall&, size_t) -> ScriptedTransport::Script { return {{10, "no"}}; }, 400);
  run_eval(bad, task, plan, fresh_folder("bad"), {}, {});
  EXPECT_EQ(bad.calls.size(), 2u);  // a bad request stays bad
}

TEST(EvalRun, RepeatsGivePassAndMajority) {
  const EvalTask task = small_task(2);  // item 0: right in 2 of 3; item 1: in 0 of 3
  ScriptedTransport transport([](const HttpCall& call, size_t) -> ScriptedTransport::Script {
    const Json body = Json::parse(call.body);
    const bool right = body["messages"][0]["content"] == "0" && body["seed"] != 8;
    return {{10, chat_reply(right ? "\\boxed{0}" : "\\boxed{9}")}};
  });
  const EvalPlan plan{.n_repeats = 3, .temperature = 1, .seed = 7};
  const EvalResult result = run_eval(transport, task, plan, fresh_folder("repeats"), {}, {});
  const Json a = eval_metrics_json(task, plan, result)["aggregate"];
  EXPECT_DOUBLE_EQ(a["pass@1"], 1.0 / 3);
  EXPECT_DOUBLE_EQ(a["pass@3"], 0.5);
  EXPECT_DOUBLE_EQ(a["majority@3"], 0.5);
  EXPECT_NEAR(a["pass@1_std"], sample_std({0.5, 0, 0.5}), 1e-12);
  EXPECT_NEAR(a["pass@1_sem"], sample_std({0.5, 0, 0.5}) / std::sqrt(3.0), 1e-12);
}

TEST(TaskFile, HeaderTemplateAndScorers) {
  const fs::path folder = fresh_folder("task");
  write_file(folder / "t.jsonl", R"({"task": "mine", "system": "Be brief.", "template": "Q: {q} {{x}}", "scorer": "choice", "n_repeats": 2})" "\n"
                                 R"({"q": "1?", "expected": "B", "tags": ["easy"], "weight": 2})" "\n"
                                 R"({"messages": [{"role": "user", "content": "hi"}], "expected": ["a", "b"], "scorer": "exact"})" "\n");
  const EvalTask task = load_task(folder / "t.jsonl", 0);
  EXPECT_EQ(task.name, "mine");
  EXPECT_EQ(task.n_repeats, 2);
  EXPECT_EQ(task.items[0].messages, R"([{"role":"system","content":"Be brief."},{"role":"user","content":"Q: 1? {x}"}])");
  EXPECT_EQ(task.items[0].id, "mine-2");
  EXPECT_EQ(mark_reply(task.items[0], {.content = "A or so? The answer is (b)."}).mark, 1);
  EXPECT_EQ(mark_reply(task.items[1], {.content = " b\n"}).mark, 1);
  const auto message = [&](const std::string& text) {
    write_file(folder / "bad.jsonl", text);
    try {
      load_task(folder / "bad.jsonl", 0);
    } catch (const Error& error) {
      return error.message.substr(error.message.find("bad.jsonl") + 9);
    }
    return std::string("accepted");
  };
  EXPECT_EQ(message(R"({"prompt": "x", "expcted": "y"})"), ":1: unknown key 'expcted'; no template names it");
  EXPECT_EQ(message("{\"task\": \"t\"}\n{\"prompt\": \"x\", \"scorer\": \"magic\"}\n"), ":2: unknown scorer 'magic'");
  EXPECT_EQ(message(R"({"expected": "y"})"), ":1: wanted 'messages', 'prompt', or fields of the header's template");
}

TEST(Scorers, EachByHand) {
  const auto mark = [](const EvalItem& item, const EvalReply& reply) { return mark_reply(item, reply).mark; };
  EXPECT_EQ(mark({.expected = "1234.5", .scorer = "number"}, {.content = "It is 7, no: 1,234.50 in all."}), 1);
  EXPECT_EQ(mark({.expected = "-3", .scorer = "number"}, {.content = "x is -3"}), 1);
  EXPECT_EQ(mark({.expected = "\"Paris\"", .scorer = "contains", .scorer_args = R"({"lower": true})"}, {.content = "the city of PARIS"}), 1);
  EXPECT_EQ(mark({.expected = "\"42\"", .scorer = "regex", .scorer_args = R"x({"pattern": "=\\s*(\\d+)", "group": 1})x"}, {.content = "x = 42"}), 1);
  EXPECT_EQ(mark({.expected = R"({"b": 1, "a": [2]})", .scorer = "json_equal"}, {.content = "```json\n{\"a\": [2], \"b\": 1}\n```"}), 1);
  const EvalItem schema{.schema = R"({"type": "object", "required": ["n"], "properties": {"n": {"type": "integer", "minimum": 1}}, "additionalProperties": false})", .scorer = "json_schema"};
  EXPECT_EQ(mark(schema, {.content = R"({"n": 2})"}), 1);
  EXPECT_EQ(mark(schema, {.content = R"({"n": 0})"}), 0);
  EXPECT_EQ(mark(schema, {.content = R"({"n": 2, "m": 1})"}), 0);
  EXPECT_EQ(mark(schema, {.content = "n = 2"}), 0);
  const EvalItem calls{.expected = R"([{"name": "f", "arguments": {"x": 1}}, {"name": "g", "arguments": {}}])", .scorer = "tool_call"};
  EXPECT_EQ(mark(calls, {.tool_calls = R"([{"name": "g", "arguments": "{}"}, {"name": "f", "arguments": "{\"x\": 1}"}])"}), 1);
  EXPECT_EQ(mark(calls, {.tool_calls = R"([{"name": "g", "arguments": "{}"}])"}), 0);
  EXPECT_EQ(mark({.expected = "\"yes\"", .choices = R"(["no", "yes"])", .scorer = "logprob_choice"}, {.logprobs = {-3, -2}, .logprob_tokens = {1, 1}}), 1);
  EXPECT_EQ(mark({.expected = "\"yes\"", .choices = R"(["a long one", "yes"])", .scorer = "logprob_choice_norm"}, {.logprobs = {-3, -2}, .logprob_tokens = {1, 1}}), 0);
  EXPECT_EQ(mark({.scorer = "none"}, {.content = "x"}), 0);
}

TEST(JsonSchema, ReferencesAndAlternatives) {
  const Json schema = Json::parse(R"({"$defs": {"p": {"type": "string", "pattern": "^a"}}, "anyOf": [{"$ref": "#/$defs/p"}, {"type": "null"}]})");
  EXPECT_EQ(schema_problem(schema, "abc"), "");
  EXPECT_EQ(schema_problem(schema, nullptr), "");
  EXPECT_NE(schema_problem(schema, "b"), "");
  EXPECT_NE(schema_problem(Json::parse(R"({"$ref": "#"})"), 1), "");  // a loop ends
}
}  // namespace
}  // namespace nibble
