#include "app/bench_serving.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>

#include "app/interrupt.h"
#include "app/local_server.h"
#include "app/machine.h"
#include "app/version.h"
#include "base/clock.h"
#include "base/file_io.h"
#include "eval/load_metrics.h"
#include "eval/load_report.h"
#include "eval/load_run.h"
#include "eval/run_folder.h"
#include "eval/transport.h"
#include "eval/workload.h"

namespace nibble {
namespace fs = std::filesystem;
namespace {
using Json = nlohmann::ordered_json;

std::vector<int> parse_levels(const std::string& text) {
  std::vector<int> out;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(',', at), text.size());
    const std::string part = text.substr(at, end - at);
    if (part.empty() || part.find_first_not_of("0123456789") != std::string::npos || part.size() > 5 || std::stoi(part) < 1) {
      raise(ErrorCode::invalid_argument, "--concurrency {}: wanted numbers of requests in flight, 1,8,32", text);
    }
    out.push_back(std::stoi(part));
    at = end + 1;
  }
  return out;
}

Limits parse_slo(const std::string& text) {
  Limits out;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find(',', at), text.size()), equals = text.find('=', at);
    const std::string name = text.substr(at, std::min(equals, end) - at);
    if (equals == std::string::npos || equals > end || (name != "ttft" && name != "itl" && name != "request_latency")) {
      raise(ErrorCode::invalid_argument, "--slo {}: wanted limits in ms, ttft=500,itl=50,request_latency=10000", text);
    }
    out[name] = std::stod(text.substr(equals + 1, end - equals - 1));
    at = end + 1;
  }
  return out;
}

Workload make_workload(const BenchServingFlags& flags, int most) {
  if (!flags.prompts.empty()) return load_workload(flags.prompts);
  if (flags.workload.empty()) return load_workload(own_workload());
  const int64_t count = flags.num_prompts > 0 ? flags.num_prompts : std::max<int64_t>(4 * most, 16);
  if (flags.workload == "random") {
    const size_t colon = flags.random_ids.find(':');
    if (colon == std::string::npos) raise(ErrorCode::invalid_argument, "--random-ids {}: wanted LOW:HIGH", flags.random_ids);
    return random_workload(count, flags.input_len, std::stoi(flags.random_ids.substr(0, colon)), std::stoi(flags.random_ids.substr(colon + 1)), flags.seed);
  }
  if (flags.workload == "words") return words_workload(count, flags.input_len, flags.seed);
  raise(ErrorCode::invalid_argument, "--workload {}: wanted random or words; our own prompts without it, a file with --prompts", flags.workload);
}

// A GET that may fail: its JSON, or null.
Json ask(Transport& transport, const std::string& path) {
  const HttpOutcome got = call_and_wait(transport, "GET", path, {}, 60, [] { return InterruptGuard::requested(); });
  if (got.status == 0) raise(ErrorCode::unavailable, "no server answers: {}; start one, or name it with --base-url", got.error);
  const Json body = Json::parse(got.body, nullptr, false);
  return got.status == 200 && !body.is_discarded() ? body : Json(nullptr);
}

class BenchServing {
 public:
  explicit BenchServing(const BenchServingFlags& flags) : flags_(flags), levels_(parse_levels(flags.concurrency)), slo_(parse_slo(flags.slo)) {
    if (!flags.extra.empty() && !Json::accept(flags.extra)) raise(ErrorCode::invalid_argument, "--extra-request: not JSON");
    if (flags.rate > 0) levels_ = {1};
    workload_ = make_workload(flags, *std::max_element(levels_.begin(), levels_.end()));
    shuffle_workload(workload_, flags.seed);
    if (flags.in_process) {
      local_ = std::make_unique<LocalServer>(flags.model, EngineOptions{});
      transport_ = make_in_process_transport(local_->api());
    } else {
      transport_ = make_http_transport(parse_base_url(flags.base_url), {.api_key = flags.api_key});
    }
    if (!flags.tokenizer_path.empty()) own_tokenizer_ = Tokenizer::load(flags.tokenizer_path);
    tokenizer_ = own_tokenizer_ ? &*own_tokenizer_ : local_ ? &local_->tokenizer() : nullptr;

    const Json models = ask(*transport_, "/v1/models");
    model_ = !flags.model_name.empty() ? flags.model_name : models.is_object() && !models["data"].empty() ? models["data"][0]["id"].get<std::string>() : "";
    server_info_ = ask(*transport_, "/get_server_info");
  }

  int run() {
    const fs::path folder = make_run_folder(flags_.out, "bench", flags_.name.empty() ? workload_.name : flags_.name);
    write_file(folder / "server_info.json", server_info_.dump(1) + "\n");
    write_file(folder / "config.json", config().dump(1) + "\n");
    if (!flags_.json) {
      fmt::print("{} | {} | {} prompts of {}{}\n\n", flags_.in_process ? "in process" : flags_.base_url, model_, num_prompts(levels_[0]), workload_.name,
                 workload_.synthetic ? " (synthetic: speculative-decoding results are not representative)" : "");
      fmt::print("{:>5} {:>5} {:>9} {:>9} {:>9} {:>9} {:>9} {:>10} {:>9} {:>7} {:>7} {:>6} {:>6}\n", "C", "n", "TTFT ms", "p99", "ITL ms", "p99", "tok/s/u", "agg tok/s", "total", "req/s", "OSL", "acc", "failed");
    }
    Json all = Json::array();
    const bool single = levels_.size() == 1 && flags_.repeats == 1;
    for (const int level : levels_) {
      Json best;
      std::vector<std::pair<double, Json>> runs;
      for (int r = 0; r < flags_.repeats && !InterruptGuard::requested(); ++r) {
        const std::string sub = flags_.repeats > 1 ? fmt::format("c{}-r{}", level, r + 1) : fmt::format("c{}", level);
        Json metrics = measure(level, single ? folder : folder / sub);
        if (metrics.is_null()) break;
        runs.emplace_back(metrics["throughput"]["output_token_throughput"].get<double>(), std::move(metrics));
      }
      if (runs.empty()) break;
      std::sort(runs.begin(), runs.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
      Json median = runs[(runs.size() - 1) / 2].second;
      if (runs.size() > 1) median["repeats"] = {{"n", runs.size()}, {"spread", (runs.back().first - runs.front().first) / std::max(runs[(runs.size() - 1) / 2].first, 1e-9)}};
      if (!flags_.json) print(median);
      all.push_back(std::move(median));
    }
    if (!single) write_file(folder / "sweep.json", all.dump(1) + "\n");
    if (!all.empty()) write_file(folder / "report.md", report_markdown({read_run(folder)}));
    if (flags_.json) {
      fmt::print("{}\n", (single && !all.empty() ? all[0] : all).dump(1));
    } else {
      fmt::print("\nwritten: {}\n", folder.string());
    }
    if (InterruptGuard::requested()) return 130;
    bool valid = true;
    for (const Json& m : all) {
      if (m["validity"]["degraded"]) fmt::print(stderr, "warning: {} of {} requests failed at {}; first error: {}\n", m["validity"]["failed"].dump(), m["load"]["requests"].dump(), m["load"]["concurrency"].dump(), m["validity"].value("first_error", ""));
      valid = valid && m["validity"]["valid"].get<bool>();
    }
    return valid ? 0 : 1;
  }

 private:
  size_t num_prompts(int level) const {
    int64_t n = static_cast<int64_t>(workload_.prompts.size());
    if (flags_.num_prompts > 0) n = std::min(n, flags_.num_prompts);
    if (flags_.num_prompts == 0 && !flags_.workload.empty()) n = std::min<int64_t>(n, std::max<int64_t>(4 * level, 16));
    return static_cast<size_t>(n);
  }

  LoadPlan plan(int level) const {
    LoadPlan p{.concurrency = level, .rate = flags_.rate, .seed = flags_.seed, .max_tokens = flags_.max_tokens};
    p.multi_turn = flags_.multi_turn;
    p.unique_salts = flags_.no_shared_prefix;
    p.continuous_usage = flags_.chunk_usage;
    p.model = model_;
    p.extra = flags_.extra;
    if (flags_.output_len > 0) {
      p.max_tokens = flags_.output_len;
      p.ignore_eos = true;
    }
    return p;
  }

  Json config() const {
    return {{"command", flags_.command_line}, {"base_url", flags_.in_process ? Json(nullptr) : Json(flags_.base_url)}, {"model", model_}, {"model_path", flags_.in_process ? Json(flags_.model.model_path) : Json(nullptr)},
            {"workload", workload_.name}, {"file", workload_.file}, {"sha256", workload_.sha256}, {"num_prompts", flags_.num_prompts}, {"concurrency", levels_}, {"rate", flags_.rate},
            {"max_tokens", flags_.max_tokens}, {"output_len", flags_.output_len}, {"seed", flags_.seed}, {"warmup", flags_.warmup}, {"repeats", flags_.repeats}, {"multi_turn", flags_.multi_turn},
            {"no_shared_prefix", flags_.no_shared_prefix}, {"continuous_usage_stats", flags_.chunk_usage}, {"slo", slo_}, {"extra_request", flags_.extra}, {"client_version", kVersion}};
  }

  // The engine refuses while a request is being put away: asked again for a moment.
  bool flush() {
    for (int i = 0; i < 40 && !InterruptGuard::requested(); ++i) {
      if (call_and_wait(*transport_, "POST", "/flush_cache", {}, 60, [] { return InterruptGuard::requested(); }).status == 200) return true;
      transport_->at(monotonic_ns() + 50'000'000, [] {});
      transport_->run();
    }
    return false;
  }

  // How the server started, and what the first request of this bench cost beside the median one.
  Json startup(const Json& metrics) const {
    if (!server_info_.is_object() || !server_info_.contains("startup")) return nullptr;
    Json out = server_info_["startup"];
    out["first_request_ttft"] = first_ttft_ > 0 ? Json(first_ttft_) : Json(nullptr);
    const Json& median = metrics["latency"]["ttft"]["p50"];
    out["first_request_penalty"] = first_ttft_ > 0 && median.is_number() && median > 0 ? Json(first_ttft_ / median.get<double>()) : Json(nullptr);
    return out;
  }

  Json measure(int level, const fs::path& folder) {
    const LoadPlan main_plan = plan(level);
    const size_t count = num_prompts(level);
    const LoadCallbacks stop{.stopped = [] { return InterruptGuard::requested(); }};
    // Warm-up: from the end of the shuffled list. Its prefixes are flushed below.
    const size_t warmup = std::min(static_cast<size_t>(flags_.warmup >= 0 ? flags_.warmup : std::max(level, 8)), workload_.prompts.size());
    if (warmup > 0) {
      LoadPlan warm = main_plan;
      warm.max_tokens = std::min<int64_t>(warm.max_tokens, 64);
      warm.rate = 0;
      const LoadResult warmed = run_load(*transport_, workload_, workload_.prompts.size() - warmup, warmup, warm, stop);
      for (const RequestRecord& r : warmed.records) {
        if (!r.ok() && !InterruptGuard::requested()) raise(ErrorCode::unavailable, "a warm-up request failed: {}", r.error);
      }
      if (first_ttft_ == 0 && !warmed.records.empty()) first_ttft_ = metrics_of(warmed.records.front()).ttft.value_or(0);
    }
    const bool flushed = flush();
    if (InterruptGuard::requested()) return nullptr;

    const std::string gpu_before = gpu_state();
    double last = 0;
    LoadCallbacks callbacks = stop;
    if (tokenizer_) callbacks.count_tokens = [this](const std::string& text) { return static_cast<int64_t>(tokenizer_->encode(text, false).size()); };
    callbacks.on_record = [&, bar = isatty(STDERR_FILENO) != 0](const RequestRecord&, size_t done, size_t planned) {
      if (!bar || (monotonic_seconds() - last < 0.2 && done != planned)) return;
      last = monotonic_seconds();
      fmt::print(stderr, "\r  C = {}: {}/{}{}", level, done, planned, done == planned ? "\r\033[K" : "");
      std::fflush(stderr);
    };
    const LoadResult result = run_load(*transport_, workload_, 0, count, main_plan, callbacks);
    const std::string gpu_after = gpu_state();

    Json metrics = {{"schema_version", 1}, {"timestamp", iso_time_now()}};
    metrics["workload"] = {{"name", workload_.name}, {"file", workload_.file}, {"sha256", workload_.sha256}, {"rows", count}, {"categories", workload_.categories()}, {"synthetic", workload_.synthetic}};
    metrics["load"] = {{"mode", flags_.rate > 0 ? "open" : "closed"}, {flags_.rate > 0 ? "rate" : "concurrency", flags_.rate > 0 ? Json(flags_.rate) : Json(level)}, {"order_seed", flags_.seed},
                       {"order", "Fisher-Yates, Philox 4x32-10"}, {"warmup", warmup}, {"requests", result.records.size()}, {"max_in_flight", result.max_in_flight}, {"cache_flushed", flushed},
                       {"unique_salts", flags_.no_shared_prefix}};
    if (flags_.rate > 0) metrics["load"]["concurrency"] = nullptr, metrics["load"]["offered_rate"] = result.offered_rate;
    metrics["request"] = {{"endpoint", workload_.prompts[0].ids.empty() ? "/v1/chat/completions" : "/v1/completions"}, {"model", model_}, {"max_tokens", main_plan.max_tokens},
                          {"ignore_eos", main_plan.ignore_eos}, {"temperature", 0}, {"stream", true}, {"multi_turn", flags_.multi_turn}, {"continuous_usage_stats", flags_.chunk_usage}, {"extra", flags_.extra}};
    const auto info = [&](const char* key) { return server_info_.is_object() && server_info_.contains(key) ? server_info_[key] : Json(nullptr); };
    metrics["server"] = {{"version", info("version")}, {"checkpoint_hash", info("checkpoint_hash")}, {"device", info("device")}, {"gpu", gpu_before.empty() ? Json(nullptr) : Json(gpu_before)}, {"flags", server_info_}};
    const Json measured = load_metrics_json(result.records, slo_);
    metrics.update(measured);
    const double wall = static_cast<double>(result.ended_ns - result.began_ns) / 1e9;
    metrics["client"] = {{"cpu_share", flags_.in_process ? Json(nullptr) : Json(result.cpu_seconds / std::max(wall, 1e-9))}, {"host", host_name()}, {"machine", machine_name()}, {"in_process", flags_.in_process}};
    metrics["validity"]["clock_drift"] = gpu_before.empty() ? Json(nullptr) : Json{{"start", gpu_before}, {"end", gpu_after}};
    metrics["validity"]["partial"] = result.interrupted;
    for (const RequestRecord& r : result.records) {
      if (r.ok()) continue;
      metrics["validity"]["first_error"] = r.error;
      break;
    }
    metrics["startup"] = startup(metrics);
    metrics["command"] = flags_.command_line;
    if (!flags_.in_process && result.cpu_seconds / std::max(wall, 1e-9) > 0.8) fmt::print(stderr, "warning: the client used {:.0f} % of a core; its timings may lag\n", 100 * result.cpu_seconds / wall);

    fs::create_directories(folder);
    AtomicFile records(folder / "records.jsonl");
    for (const RequestRecord& r : result.records) records.stream() << record_json(r).dump(-1, ' ', false, Json::error_handler_t::replace) << "\n";
    records.commit();
    write_file(folder / "metrics.json", metrics.dump(1, ' ', false, Json::error_handler_t::replace) + "\n");
    return metrics;
  }

  void print(const Json& m) const {
    const Json& l = m["latency"];
    const Json& t = m["throughput"];
    const auto d = [](const Json& v) { return v.is_number() ? v.get<double>() : 0.0; };
    fmt::print("{:>5} {:>5} {:>9.1f} {:>9.1f} {:>9.2f} {:>9.2f} {:>9.1f} {:>10.1f} {:>9.1f} {:>7.2f} {:>7.1f} {:>6} {:>6}\n", flags_.rate > 0 ? fmt::format("{}/s", flags_.rate) : m["load"]["concurrency"].dump(),
               m["load"]["requests"].dump(), d(l["ttft"]["mean"]), d(l["ttft"]["p99"]), d(l["itl"]["mean"]), d(l["itl"]["p99"]), d(l["tok_s_user"]["mean"]), d(t["output_token_throughput"]),
               d(t["total_token_throughput"]), d(t["request_throughput"]), d(l["osl"]["mean"]), m["spec"].is_null() ? "" : fmt::format("{:.2f}", d(m["spec"]["acceptance_length"])), m["validity"]["failed"].dump());
    std::fflush(stdout);
  }

  const BenchServingFlags& flags_;
  std::vector<int> levels_;
  Limits slo_;
  Workload workload_;
  std::unique_ptr<LocalServer> local_;
  std::unique_ptr<Transport> transport_;
  std::optional<Tokenizer> own_tokenizer_;
  const Tokenizer* tokenizer_ = nullptr;
  std::string model_;
  Json server_info_;
  double first_ttft_ = 0;  // ms, of the first warm-up request
};
}  // namespace

int run_bench_serving(const BenchServingFlags& flags) {
  const InterruptGuard interrupt;
  return BenchServing(flags).run();
}
}  // namespace nibble
