#include "app/eval_command.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "app/interrupt.h"
#include "app/local_server.h"
#include "app/version.h"
#include "base/clock.h"
#include "base/file_io.h"
#include "eval/eval_run.h"
#include "eval/run_folder.h"
#include "eval/task.h"
#include "eval/transport.h"

namespace nibble {
namespace fs = std::filesystem;
namespace {
using Json = nlohmann::ordered_json;

// Predictions of a run folder, or of one file.
std::vector<EvalSample> samples_of(const fs::path& path) { return read_samples(fs::is_directory(path) ? path / "output-rs0.jsonl" : path); }

void refuse_partial(const fs::path& path) {
  const fs::path metrics = (fs::is_directory(path) ? path : path.parent_path()) / "metrics.json";
  if (!fs::exists(metrics)) return;
  const Json m = Json::parse(read_file(metrics), nullptr, false);
  if (m.is_object() && m.value("partial", false)) raise(ErrorCode::invalid_argument, "{}: a partial run is never compared; finish it with --resume", path.string());
}

EvalTask task_of(const EvalFlags& flags) {
  if (!flags.task.empty()) return load_task(flags.task, flags.num_examples);
  if (flags.name != "gsm8k") raise(ErrorCode::invalid_argument, "eval {}: wanted gsm8k, or --task FILE", flags.name);
  if (flags.data.empty()) raise(ErrorCode::invalid_argument, "--data: wanted the path of the test.jsonl of grade-school-math; nibble ships no copy and downloads nothing");
  return load_gsm8k(flags.data, flags.num_examples);
}

// The marks again, from the generations alone.
int regrade(const EvalFlags& flags) {
  std::vector<EvalSample> samples = samples_of(flags.regrade);
  std::map<std::string, EvalItem> items;
  if (!flags.task.empty()) {
    for (EvalItem& item : load_task(flags.task, 0).items) items[item.id] = std::move(item);
  }
  int64_t correct = 0, changed = 0;
  Json changes = Json::array();
  for (EvalSample& s : samples) {
    EvalItem item;
    if (const auto at = items.find(s.id); at != items.end()) {
      item = at->second;
    } else if (!flags.task.empty()) {
      raise(ErrorCode::invalid_argument, "{}: the task has no item '{}'", flags.regrade, s.id);
    } else {
      item.expected = Json(s.expected).dump();
    }
    const Mark mark = s.finish_reason == "error" ? Mark{} : mark_reply(item, {.content = s.generation, .tool_calls = s.tool_calls});
    const bool now = mark.mark == 1;
    correct += now;
    if (now != s.correct) {
      ++changed;
      changes.push_back({{"id", s.id}, {"was", s.correct}, {"is", now}, {"answer", mark.answer ? Json(*mark.answer) : Json(nullptr)}, {"expected", s.expected}});
    }
  }
  const auto n = static_cast<int64_t>(samples.size());
  const double score = n > 0 ? static_cast<double>(correct) / static_cast<double>(n) : 0;
  if (flags.json) {
    fmt::print("{}\n", Json{{"file", flags.regrade}, {"samples", n}, {"score", score}, {"score_se", score_error(score, n)}, {"changed", changed}, {"changes", changes}}.dump(1));
  } else {
    fmt::print("{}: {} of {} right, {:.4f} ± {:.4f}; {} marks differ from the file's\n", flags.regrade, correct, n, score, score_error(score, n), changed);
    for (const Json& c : changes) fmt::print("  {}\n", c.dump());
  }
  return 0;
}

std::string report(const Json& m, const std::vector<std::string>& warnings, const EvalFlags& flags) {
  const Json& a = m["aggregate"];
  const auto d = [](const Json& v) { return v.get<double>(); };
  std::string out = fmt::format("# {}: {:.4f} ± {:.4f} ({} rows{})\n\n", m["name"].get<std::string>(), d(a["score"]), d(m["score_se"]), m["num_examples"].dump(), m["partial"] ? ", partial run" : "");
  out += fmt::format("Model `{}`, {}; {} repeat(s), {} requests in flight. Data: {} (sha256 `{}`{}).\n\n", m["model"].is_string() ? m["model"].get<std::string>() : "", m["base_url"].is_string() ? m["base_url"].get<std::string>() : "in process",
                     m["n_repeats"].dump(), m["num_threads"].dump(), m["official_split"] ? "official test split" : fmt::format("custom data ({} rows)", m["num_examples"].dump()), m["data_sha256"].get<std::string>(),
                     m["partial_set"] ? ", the first rows only" : "");
  out += "| | |\n| --- | --- |\n";
  for (const auto& [key, value] : a.items()) out += fmt::format("| {} | {:.4f} |\n", key, value.get<double>());
  if (m.contains("by_tag")) {
    out += "\n| tag | score |\n| --- | --- |\n";
    for (const auto& [key, value] : m["by_tag"].items()) out += fmt::format("| {} | {:.4f} |\n", key, value.get<double>());
  }
  if (m.contains("comparison")) {
    const Json& c = m["comparison"];
    out += fmt::format("\nAgainst `{}`: {}. Only the baseline right: b = {}; only this run right: c = {}; Δ = {:.4f} ± {:.4f}, exact p = {:.3g} (n = {}).\n", c["baseline"].get<std::string>(), c["verdict"].get<std::string>(), c["b"].dump(),
                       c["c"].dump(), d(c["delta"]), d(c["delta_se"]), d(c["p_value"]), c["n"].dump());
  }
  for (const std::string& w : warnings) out += fmt::format("\nWarning: {}.\n", w);
  return out + fmt::format("\nAgain: `{}`\n", flags.command_line);
}

int run(const EvalFlags& flags) {
  const EvalTask task = task_of(flags);
  EvalPlan plan{.concurrency = flags.concurrency, .n_repeats = flags.n_repeats > 0 ? flags.n_repeats : task.n_repeats, .temperature = flags.temperature, .top_p = flags.top_p, .min_p = flags.min_p,
                .repetition_penalty = flags.repetition_penalty, .max_tokens = flags.max_tokens, .seed = flags.seed};
  std::unique_ptr<LocalServer> local;
  std::unique_ptr<Transport> transport;
  ModelFlags model = flags.model;
  SpeculativeFlags& speculative = model.speculative;
  check_speculative_flags(speculative);
  if (flags.in_process) {
    if (!speculative.algorithm.empty()) model.max_rows += flags.concurrency * static_cast<int32_t>(speculative.num_steps);
    local = std::make_unique<LocalServer>(model, EngineOptions{.max_running_requests = flags.concurrency});
    transport = make_in_process_transport(local->api());
  } else {
    if (!speculative.algorithm.empty()) raise(ErrorCode::invalid_argument, "--speculative-algorithm {}: a server has its own; give it to `nibble serve`, or --in-process here", speculative.algorithm);
    transport = make_http_transport(parse_base_url(flags.base_url), {.api_key = flags.api_key});
  }
  const HttpOutcome models = call_and_wait(*transport, "GET", "/v1/models", {}, 60, [] { return InterruptGuard::requested(); });
  if (models.status == 0) raise(ErrorCode::unavailable, "no server answers: {}; start one, name it with --base-url, or give --model-path", models.error);
  plan.model = flags.model_name;
  if (const Json list = Json::parse(models.body, nullptr, false); plan.model.empty() && list.is_object() && list.contains("data") && !list["data"].empty()) plan.model = list["data"][0].value("id", "");
  const HttpOutcome info = call_and_wait(*transport, "GET", "/get_server_info", {}, 60, [] { return InterruptGuard::requested(); });

  const fs::path folder = flags.resume.empty() ? make_run_folder(flags.out, "eval", flags.run_name.empty() ? task.name : flags.run_name) : fs::path(flags.resume);
  if (!fs::is_directory(folder)) raise(ErrorCode::not_found, "--resume {}: no such run folder", flags.resume);
  const Json config = {{"command", flags.command_line}, {"task", task.name}, {"file", task.file}, {"data_sha256", task.sha256}, {"num_examples", flags.num_examples}, {"n_repeats", plan.n_repeats},
                       {"temperature", plan.temperature}, {"top_p", plan.top_p}, {"min_p", plan.min_p}, {"repetition_penalty", plan.repetition_penalty},
                       {"max_tokens", plan.max_tokens ? Json(*plan.max_tokens) : Json(nullptr)}, {"seed", plan.seed ? Json(*plan.seed) : Json(nullptr)}};
  if (!flags.resume.empty() && fs::exists(folder / "config.json")) {
    const Json before = Json::parse(read_file(folder / "config.json"), nullptr, false);
    for (const char* key : {"data_sha256", "n_repeats", "temperature", "top_p", "min_p", "repetition_penalty", "max_tokens", "seed"}) {
      if (before.is_object() && before[key] != config[key]) raise(ErrorCode::invalid_argument, "--resume {}: it was begun with {} {}, now {}", flags.resume, key, before[key].dump(), config[key].dump());
    }
  }
  write_file(folder / "config.json", config.dump(1) + "\n");
  if (info.status == 200) write_file(folder / "server_info.json", info.body + "\n");
  if (!flags.json) {
    fmt::print("{} | {} | {} rows ({}{}) | {}\n", task.name, plan.model, task.items.size(), task.official ? "official test split" : "custom data", task.partial_set ? ", the first only" : "", flags.in_process ? "in process" : flags.base_url);
    std::fflush(stdout);
  }

  double last = 0;
  const bool bar = isatty(STDERR_FILENO) != 0;
  const auto on_progress = [&](const EvalProgress& p) {
    const double every = bar ? 0.2 : 10;
    if (monotonic_seconds() - last < every) return;
    last = monotonic_seconds();
    fmt::print(stderr, "{}{}/{}  score {:.4f} ± {:.4f}{}", bar ? "\r" : "", p.done, p.planned, p.score, p.error, bar ? "" : "\n");
    std::fflush(stderr);
  };
  const EvalResult result = run_eval(*transport, task, plan, folder, on_progress, [] { return InterruptGuard::requested(); });
  if (bar) fmt::print(stderr, "\r\033[K");

  Json metrics = eval_metrics_json(task, plan, result);
  metrics["model"] = plan.model;
  metrics["base_url"] = flags.in_process ? Json(nullptr) : Json(flags.base_url);
  metrics["timestamp"] = iso_time_now();
  const Json server = Json::parse(info.body, nullptr, false);
  metrics["checkpoint_hash"] = server.is_object() && server.contains("checkpoint_hash") ? server["checkpoint_hash"] : Json(nullptr);
  metrics["server_version"] = server.is_object() && server.contains("version") ? server["version"] : Json(nullptr);
  metrics["client_version"] = kVersion;
  if (local && !speculative.algorithm.empty()) {
    const DraftCounts drafts = local->engine().stats().speculation;
    metrics["spec"] = {{"max_drafts", speculative.num_steps}, {"adaptive", speculative.adaptive}, {"rounds", drafts.rounds}, {"acceptance_length", drafts.acceptance_length()}, {"acceptance_rate", drafts.acceptance_rate()}};
  }
  metrics["command"] = flags.command_line;
  if (!flags.baseline.empty() && !result.partial) {
    metrics["comparison"] = {{"baseline", flags.baseline}};
    metrics["comparison"].update(paired_json(compare_samples(samples_of(flags.baseline), result.repeats[0])));
  }
  const std::vector<std::string> warnings = eval_warnings(metrics, plan);
  metrics["warnings"] = warnings;
  write_file(folder / "metrics.json", metrics.dump(1, ' ', false, Json::error_handler_t::replace) + "\n");
  write_file(folder / "report.md", report(metrics, warnings, flags));
  if (flags.json) {
    fmt::print("{}\n", metrics.dump(1, ' ', false, Json::error_handler_t::replace));
  } else {
    const Json& a = metrics["aggregate"];
    fmt::print("score {:.4f} ± {:.4f}, no answer {:.3f}, cut off {:.3f}, failed {:.3f}; {:.1f} s, {:.0f} tok/s\n", a["score"].get<double>(), metrics["score_se"].get<double>(), a["no_answer"].get<double>(), a["truncated_rate"].get<double>(),
               a["error_rate"].get<double>(), result.seconds, metrics["output_throughput_tps"].get<double>());
    if (metrics.contains("spec")) fmt::print("speculation: {:.3f} tokens a round\n", metrics["spec"]["acceptance_length"].get<double>());
    if (metrics.contains("comparison")) fmt::print("against {}: {}\n", flags.baseline, metrics["comparison"].dump());
    fmt::print("written: {}\n", folder.string());
  }
  for (const std::string& w : warnings) fmt::print(stderr, "warning: {}\n", w);
  if (result.partial && InterruptGuard::requested()) fmt::print(stderr, "go on with: {} --resume {}\n", flags.command_line, folder.string());
  return result.partial ? 130 : 0;
}
}  // namespace

int run_eval_command(const EvalFlags& flags) {
  if (!flags.baseline.empty()) refuse_partial(flags.baseline);
  if (!flags.regrade.empty()) return regrade(flags);
  const InterruptGuard interrupt;
  return run(flags);
}
}  // namespace nibble
