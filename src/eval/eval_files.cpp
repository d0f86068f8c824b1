// Predictions and metrics of evaluations, in and out.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file_io.h"
#include "eval/eval_run.h"

namespace nibble {
namespace {
using Json = nlohmann::ordered_json;

double mean(const std::vector<double>& values) {
  double sum = 0;
  for (const double v : values) sum += v;
  return values.empty() ? 0 : sum / static_cast<double>(values.size());
}
}  // namespace

Json sample_json(const EvalSample& s) {
  Json out = {{"id", s.id}, {"problem", s.problem}, {"expected_answer", s.expected}, {"generation", s.generation}, {"reasoning_content", s.reasoning ? Json(*s.reasoning) : Json(nullptr)},
              {"predicted_answer", s.predicted ? Json(*s.predicted) : Json(nullptr)}, {"symbolic_correct", s.correct}, {"finish_reason", s.finish_reason},
              {"num_generated_tokens", s.generated_tokens}, {"num_reasoning_tokens", s.reasoning_tokens}, {"num_answer_tokens", s.generated_tokens - s.reasoning_tokens},
              {"generation_start_time", s.started}, {"generation_end_time", s.ended}, {"num_prompt_tokens", s.prompt_tokens}, {"mark", s.mark}, {"reason", s.reason}};
  if (!s.tool_calls.empty()) out["tool_calls"] = Json::parse(s.tool_calls);
  return out;
}

EvalSample sample_from_json(const Json& json) {
  try {
    EvalSample s;
    const auto text = [&](const char* key) { return json.contains(key) && json[key].is_string() ? std::optional(json[key].get<std::string>()) : std::nullopt; };
    s.id = json.at("id").is_string() ? json["id"].get<std::string>() : json["id"].dump();
    s.problem = text("problem").value_or("");
    s.expected = json.contains("expected_answer") ? json["expected_answer"].is_string() ? json["expected_answer"].get<std::string>() : json["expected_answer"].dump() : "";
    s.generation = text("generation").value_or("");
    s.reasoning = text("reasoning_content");
    s.predicted = text("predicted_answer");
    s.correct = json.value("symbolic_correct", false);
    s.mark = json.value("mark", s.correct ? 1.0 : 0.0);
    s.reason = text("reason").value_or("");
    s.finish_reason = text("finish_reason").value_or("");
    s.generated_tokens = json.value("num_generated_tokens", int64_t{0});
    s.reasoning_tokens = json.value("num_reasoning_tokens", int64_t{0});
    s.prompt_tokens = json.value("num_prompt_tokens", int64_t{0});
    s.started = json.value("generation_start_time", 0.0);
    s.ended = json.value("generation_end_time", 0.0);
    if (json.contains("tool_calls")) s.tool_calls = json["tool_calls"].dump();
    return s;
  } catch (const nlohmann::json::exception& error) {
    raise(ErrorCode::corrupt, "a prediction: {}", error.what());
  }
}

std::vector<EvalSample> read_samples(const std::filesystem::path& file) {
  const std::string text = read_file(file);
  std::vector<EvalSample> out;
  int64_t number = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = text.find('\n', at);
    const std::string_view line(text.data() + at, (end == std::string::npos ? text.size() : end) - at);
    ++number;
    const Json row = Json::parse(line, nullptr, false);
    if (row.is_object()) {
      out.push_back(sample_from_json(row));
    } else if (end != std::string::npos && line.find_first_not_of(" \t\r") != std::string_view::npos) {
      raise(ErrorCode::corrupt, "{}:{}: not a JSON object", file.string(), number);
    }
    if (end == std::string::npos) break;
    at = end + 1;
  }
  return out;
}

Json paired_json(const Paired& p) {
  return {{"n", p.n}, {"b", p.b}, {"c", p.c}, {"delta", p.delta}, {"delta_se", p.delta_error}, {"p_value", p.p_value}, {"verdict", p.verdict}};
}

Paired compare_samples(const std::vector<EvalSample>& baseline, const std::vector<EvalSample>& candidate) {
  std::map<std::string, bool> first;
  for (const EvalSample& s : baseline) first[s.id] = s.correct;
  std::vector<bool> a, b;
  for (const EvalSample& s : candidate) {
    const auto at = first.find(s.id);
    if (at == first.end()) raise(ErrorCode::invalid_argument, "the two runs have different rows: only one has the id '{}'", s.id);
    a.push_back(at->second);
    b.push_back(s.correct);
  }
  if (a.size() != first.size()) raise(ErrorCode::invalid_argument, "the two runs have different rows: {} and {}", first.size(), a.size());
  return paired_test(a, b);
}

Json eval_metrics_json(const EvalTask& task, const EvalPlan& plan, const EvalResult& result) {
  const auto n = static_cast<int64_t>(task.items.size());
  const size_t planned = task.items.size() * static_cast<size_t>(plan.n_repeats);
  std::map<std::string, const EvalItem*> items;
  for (const EvalItem& item : task.items) items[item.id] = &item;
  size_t completed = 0, stop = 0, length = 0, other = 0, none = 0;
  int64_t prompt = 0, generated = 0, reasoning = 0;
  std::map<std::string, std::vector<const EvalSample*>> rows;  // by id, one per repeat
  std::map<std::string, std::pair<double, double>> by_tag;     // weight * mark, weight
  std::vector<double> run_means;
  double weighted = 0, weights = 0;
  bool binary = true;
  for (const auto& samples : result.repeats) {
    double sum = 0, sum_weights = 0;
    for (const EvalSample& s : samples) {
      const EvalItem& item = *items.at(s.id);
      ++completed;
      (s.finish_reason == "stop" || s.finish_reason == "tool_calls" ? stop : s.finish_reason == "length" ? length : other) += 1;
      none += !s.predicted;
      prompt += s.prompt_tokens;
      generated += s.generated_tokens;
      reasoning += s.reasoning_tokens;
      rows[s.id].push_back(&s);
      sum += item.weight * s.mark;
      sum_weights += item.weight;
      binary = binary && (s.mark == 0 || s.mark == 1);
      for (const std::string& tag : item.tags) {
        by_tag[tag].first += item.weight * s.mark;
        by_tag[tag].second += item.weight;
      }
    }
    // Rows that were planned and never came are wrong.
    for (const EvalItem& item : task.items) sum_weights += rows[item.id].empty() ? item.weight : 0;
    run_means.push_back(sum_weights > 0 ? sum / sum_weights : 0);
    weighted += sum;
    weights += sum_weights;
  }
  const double all = static_cast<double>(std::max<size_t>(completed, 1)), score = weights > 0 ? weighted / weights : 0;
  Json aggregate = {{"score", score}, {"stop_rate", static_cast<double>(stop) / all}, {"truncated_rate", static_cast<double>(length) / all}, {"error_rate", static_cast<double>(other) / all},
                    {"no_answer", static_cast<double>(none) / all}};
  const int k = plan.n_repeats;
  if (k > 1) {
    std::vector<double> first, any, majority;
    for (const EvalItem& item : task.items) {
      const auto& samples = rows[item.id];
      int correct = 0;
      std::map<std::pair<std::string, double>, int> votes;
      for (const EvalSample* s : samples) {
        correct += s->correct;
        if (s->predicted) ++votes[{*s->predicted, s->mark}];
      }
      const int m = static_cast<int>(samples.size());
      first.push_back(m > 0 ? pass_at(m, correct, 1) : 0);
      any.push_back(m > 0 ? pass_at(m, correct, m) : 0);
      int most = 0;
      for (const auto& [vote, count] : votes) most = std::max(most, count);
      std::vector<double> winners;
      for (const auto& [vote, count] : votes) {
        if (count == most) winners.push_back(vote.second);
      }
      majority.push_back(mean(winners));
    }
    aggregate["pass@1"] = mean(first);
    aggregate["pass@1_std"] = sample_std(run_means);
    aggregate["pass@1_sem"] = sample_std(run_means) / std::sqrt(static_cast<double>(k));
    aggregate["pass@" + std::to_string(k)] = mean(any);
    aggregate["majority@" + std::to_string(k)] = mean(majority);
  }
  Json metrics = {{"name", task.name}, {"num_examples", n}, {"n_repeats", k}, {"aggregate", aggregate}};
  if (!by_tag.empty()) {
    for (const auto& [tag, sums] : by_tag) metrics["by_tag"][tag] = sums.second > 0 ? sums.first / sums.second : 0;
  }
  std::vector<double> marks;
  for (const auto& samples : result.repeats) {
    for (const EvalSample& s : samples) marks.push_back(s.mark);
  }
  metrics["score_se"] = binary ? score_error(score, n) : sample_std(marks) / std::sqrt(static_cast<double>(std::max<size_t>(marks.size(), 1)));
  metrics["latency_seconds"] = result.seconds;
  metrics["output_throughput_tps"] = result.seconds > 0 ? static_cast<double>(generated) / result.seconds : 0;
  metrics["total_completion_tokens"] = generated;
  metrics["total_prompt_tokens"] = prompt;
  const auto usage = [&](int64_t total) { return Json{{"mean", static_cast<double>(total) / all}, {"count", completed}}; };
  metrics["token_usage"] = {{"prompt_tokens", usage(prompt)}, {"completion_tokens", usage(generated)}, {"reasoning_tokens", usage(reasoning)}};
  metrics["gen"] = {{"temperature", plan.temperature}, {"top_p", plan.top_p}, {"min_p", plan.min_p}, {"repetition_penalty", plan.repetition_penalty},
                    {"max_tokens", plan.max_tokens ? Json(*plan.max_tokens) : Json(nullptr)}, {"seed", plan.seed ? Json(*plan.seed) : Json(nullptr)}};
  metrics["num_threads"] = plan.concurrency;
  metrics["partial"] = completed < planned;
  metrics["partial_set"] = task.partial_set;
  metrics["planned_examples"] = planned;
  metrics["completed_samples"] = completed;
  metrics["data_sha256"] = task.sha256;
  metrics["official_split"] = task.official;
  return metrics;
}

std::vector<std::string> eval_warnings(const Json& metrics, const EvalPlan& plan) {
  std::vector<std::string> out;
  const Json& a = metrics["aggregate"];
  const auto rate = [&](const char* key) { return a[key].get<double>(); };
  if (metrics["completed_samples"].get<int64_t>() > 0) {
    if (rate("no_answer") >= 0.05) out.push_back(fmt::format("{:.1f} % of the replies hold no answer; raise --max-tokens", 100 * rate("no_answer")));
    if (rate("truncated_rate") >= 0.01) out.push_back(fmt::format("{:.1f} % of the replies were cut off; raise --max-tokens", 100 * rate("truncated_rate")));
    if (rate("error_rate") >= 0.01) out.push_back(fmt::format("{:.1f} % of the requests failed", 100 * rate("error_rate")));
  }
  if (plan.n_repeats > 1 && plan.temperature == 0) out.push_back("repeats at temperature 0 measure nothing");
  if (metrics["partial"]) out.push_back(fmt::format("partial: {} of {} samples", metrics["completed_samples"].dump(), metrics["planned_examples"].dump()));
  return out;
}
}  // namespace nibble
