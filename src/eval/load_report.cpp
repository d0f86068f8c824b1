#include "eval/load_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "base/file_io.h"
#include "eval/eval_run.h"

namespace nibble {
namespace fs = std::filesystem;
namespace {
using Json = nlohmann::ordered_json;

Json parsed(const std::string& text) { return text.empty() ? Json(nullptr) : Json::parse(text, nullptr, false); }

Json at(const Json& json, std::initializer_list<const char*> path) {
  const Json* here = &json;
  for (const char* key : path) {
    if (!here->is_object() || !here->contains(key)) return nullptr;
    here = &(*here)[key];
  }
  return *here;
}

std::string cell(const Json& value) { return value.is_number() ? short_number(value.get<double>()) : value.is_string() ? value.get<std::string>() : value.is_boolean() ? (value.get<bool>() ? "yes" : "no") : "-"; }
double number(const Json& value) { return value.is_number() ? value.get<double>() : 0; }
std::string plain(const Json& value) { return value.is_string() ? value.get<std::string>() : value.is_null() ? "-" : value.dump(); }

std::string level_name(const Json& m) { return at(m, {"load", "mode"}) == "open" ? fmt::format("{}/s", plain(at(m, {"load", "rate"}))) : plain(at(m, {"load", "concurrency"})); }

std::string percentiles(const Json& m, const char* metric) { return cell(at(m, {"latency", metric, "p50"})) + " / " + cell(at(m, {"latency", metric, "p99"})); }

std::string what_ran(const StoredRun& run) {
  const Json m = parsed(run.levels[0]), flags = at(m, {"server", "flags"});
  const auto flag = [&](const char* key) { return plain(at(flags, {key})); };
  std::string out = fmt::format("- **{}**: model `{}`", run.name, plain(at(m, {"request", "model"})));
  if (flags.is_object()) {
    out += fmt::format(", load format {}, KV cache {}, device {}", flag("load_format"), flag("kv_cache_dtype"), flag("device"));
    if (at(flags, {"speculative_algorithm"}).is_string() && !at(flags, {"speculative_algorithm"}).get<std::string>().empty()) out += ", speculation " + flag("speculative_algorithm");
  }
  const Json gpu = at(m, {"server", "gpu"});
  out += fmt::format("; on {}", gpu.is_string() ? gpu.get<std::string>() : plain(at(m, {"client", "machine"})));
  out += fmt::format("; server {}; prompts `{}` (sha256 `{}`{}), {} per level, output {} {} tokens, prefix cache {}; tokens counted by the {}.\n", plain(at(m, {"server", "version"})), plain(at(m, {"workload", "name"})),
                     plain(at(m, {"workload", "sha256"})).substr(0, 16), at(m, {"workload", "synthetic"}) == true ? ", synthetic: speculative-decoding results are not representative" : "", plain(at(m, {"workload", "rows"})),
                     at(m, {"request", "ignore_eos"}) == true ? "exactly" : "at most", plain(at(m, {"request", "max_tokens"})),
                     at(m, {"load", "unique_salts"}) == true ? "not shared (a salt each)" : at(m, {"load", "cache_flushed"}) == true ? "flushed before each level" : "not flushed", plain(at(m, {"token_source"})));
  if (const Json start = at(m, {"startup"}); start.is_object()) {
    out += fmt::format("  Start: ready after {} s, weights at {} GB/s, {} MB of memory at most, first request {} ms ({} x the median first token).\n", cell(at(start, {"process_to_ready_seconds"})),
                       short_number(number(at(start, {"load_bytes_per_second"})) / 1e9), short_number(std::round(number(at(start, {"peak_host_bytes"})) / 1e6)), cell(at(start, {"first_request_ttft"})),
                       cell(at(start, {"first_request_penalty"})));
  }
  return out;
}

std::string verdict(const std::vector<StoredRun>& runs) {
  std::string out;
  for (const StoredRun& run : runs) {
    if (run.evaluation) {
      const Json m = parsed(run.levels[0]);
      out += fmt::format("{}{}: score {} ± {} (n = {}{})", out.empty() ? "" : "; ", run.name, cell(at(m, {"aggregate", "score"})), cell(at(m, {"score_se"})), plain(at(m, {"num_examples"})),
                         at(m, {"comparison"}).is_object() ? ", " + plain(at(m, {"comparison", "verdict"})) : "");
      continue;
    }
    Json first = parsed(run.levels.front()), best = first;
    for (const std::string& level : run.levels) {
      const Json m = parsed(level);
      if (number(at(m, {"throughput", "output_token_throughput"})) > number(at(best, {"throughput", "output_token_throughput"}))) best = m;
    }
    out += fmt::format("{}{}: {} tok/s/user at C = {}, up to {} tok/s in all at C = {}", out.empty() ? "" : "; ", run.name, cell(at(first, {"latency", "tok_s_user", "mean"})), level_name(first),
                       cell(at(best, {"throughput", "output_token_throughput"})), level_name(best));
  }
  return out + ".";
}

std::string warnings_of(const StoredRun& run) {
  std::string out;
  for (const std::string& level : run.levels) {
    const Json m = parsed(level);
    const std::string where = run.evaluation ? run.name : fmt::format("{}, C = {}", run.name, level_name(m));
    if (run.evaluation) {
      for (const Json& w : m.value("warnings", Json::array())) out += fmt::format("- {}: {}\n", where, plain(w));
      continue;
    }
    if (at(m, {"validity", "valid"}) == false) out += fmt::format("- {}: INVALID, {} requests failed\n", where, plain(at(m, {"validity", "failed"})));
    else if (at(m, {"validity", "degraded"}) == true) out += fmt::format("- {}: degraded, {} requests failed\n", where, plain(at(m, {"validity", "failed"})));
    if (number(at(m, {"client", "cpu_share"})) > 0.8) out += fmt::format("- {}: the client used {} of a core\n", where, cell(at(m, {"client", "cpu_share"})));
    if (at(m, {"validity", "partial"}) == true) out += fmt::format("- {}: interrupted\n", where);
    if (at(m, {"load", "cache_flushed"}) == false && at(m, {"load", "unique_salts"}) != true) out += fmt::format("- {}: the prefix cache was not flushed before\n", where);
    if (at(m, {"client", "in_process"}) == true) out += fmt::format("- {}: in process, without sockets; not a measurement of a server\n", where);
    if (at(m, {"spec"}).is_object() && number(at(m, {"spec", "spec_gain"})) > 0 && number(at(m, {"spec", "spec_gain"})) < 1) out += fmt::format("- {}: speculation loses, gain {}\n", where, cell(at(m, {"spec", "spec_gain"})));
  }
  return out;
}

Json read_json(const fs::path& path) {
  Json json = Json::parse(read_file(path), nullptr, false);
  if (json.is_discarded()) raise(ErrorCode::corrupt, "{}: not JSON", path.string());
  return json;
}
}  // namespace

std::string short_number(double value) {
  if (value == 0 || !std::isfinite(value)) return value == 0 ? "0" : "-";
  const int before = static_cast<int>(std::floor(std::log10(std::fabs(value)))) + 1;
  std::string text = fmt::format("{:.{}f}", value, std::clamp(4 - before, 0, 6));
  if (text.find('.') != std::string::npos) {
    while (text.ends_with('0')) text.pop_back();
    if (text.ends_with('.')) text.pop_back();
  }
  return text;
}

StoredRun read_run(const fs::path& path) {
  if (!fs::exists(path)) raise(ErrorCode::not_found, "{}: no such run", path.string());
  StoredRun run;
  run.folder = fs::is_directory(path) ? path : path.parent_path();
  run.name = fs::absolute(run.folder).lexically_normal().filename().string();
  if (run.name.empty()) run.name = fs::absolute(run.folder).lexically_normal().parent_path().filename().string();
  if (fs::exists(run.folder / "config.json")) run.config = read_file(run.folder / "config.json");
  if (fs::exists(run.folder / "server_info.json")) run.server_info = read_file(run.folder / "server_info.json");
  const fs::path single = fs::is_directory(path) ? path / "metrics.json" : path, sweep = run.folder / "sweep.json";
  Json metrics;
  if (fs::is_directory(path) && fs::exists(sweep)) {
    metrics = read_json(sweep);
  } else if (fs::exists(single)) {
    metrics = read_json(single);
  } else {
    raise(ErrorCode::not_found, "{}: no metrics.json or sweep.json", path.string());
  }
  if (!metrics.is_array()) metrics = Json::array({metrics});
  for (const Json& m : metrics) {
    if (!m.is_object() || (!m.contains("latency") && !m.contains("aggregate"))) raise(ErrorCode::corrupt, "{}: neither a load test's metrics nor an evaluation's", path.string());
    run.evaluation = m.contains("aggregate");
    run.levels.push_back(m.dump());
  }
  if (run.levels.empty()) raise(ErrorCode::corrupt, "{}: no levels", path.string());
  return run;
}

std::string report_markdown(const std::vector<StoredRun>& runs) {
  std::vector<StoredRun> loads, evaluations;
  for (const StoredRun& run : runs) (run.evaluation ? evaluations : loads).push_back(run);
  std::string out = "# " + verdict(runs) + "\n\n## What was run\n\n";
  for (const StoredRun& run : loads) out += what_ran(run);
  for (const StoredRun& run : evaluations) {
    const Json m = parsed(run.levels[0]);
    out += fmt::format("- **{}**: `{}` on model `{}`, {} ({} rows, sha256 `{}`).\n", run.name, plain(at(m, {"name"})), plain(at(m, {"model"})), at(m, {"official_split"}) == true ? "official test split" : "custom data",
                       plain(at(m, {"num_examples"})), plain(at(m, {"data_sha256"})).substr(0, 16));
  }
  if (!loads.empty()) {
    out += "\n## Single stream\n\n| run | C | n | TTFT ms | ITL ms | tok/s/user | tok/s/user by mean ITL | accept length |\n| --- | --- | --- | --- | --- | --- | --- | --- |\n";
    for (const StoredRun& run : loads) {
      const Json m = parsed(run.levels[0]);
      out += fmt::format("| {} | {} | {} | {} | {} | {} | {} | {} |\n", run.name, level_name(m), plain(at(m, {"throughput", "completed"})), cell(at(m, {"latency", "ttft", "mean"})), cell(at(m, {"latency", "itl", "mean"})),
                         cell(at(m, {"latency", "tok_s_user", "mean"})), cell(at(m, {"throughput", "tok_s_user_by_mean_itl"})), cell(at(m, {"spec", "acceptance_length"})));
    }
    out += "\n## Load\n\n| run | C | n | agg tok/s | req/s | OSL | TTFT ms p50 / p99 | ITL ms p50 / p99 | accept length | spread |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n";
    for (const StoredRun& run : loads) {
      for (const std::string& level : run.levels) {
        const Json m = parsed(level), spread = at(m, {"repeats", "spread"});
        out += fmt::format("| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |\n", run.name, level_name(m), plain(at(m, {"throughput", "completed"})), cell(at(m, {"throughput", "output_token_throughput"})),
                           cell(at(m, {"throughput", "request_throughput"})), cell(at(m, {"latency", "osl", "mean"})), percentiles(m, "ttft"), percentiles(m, "itl"), cell(at(m, {"spec", "acceptance_length"})),
                           spread.is_number() ? fmt::format("{:.1f} % of {}", 100 * spread.get<double>(), plain(at(m, {"repeats", "n"}))) : "-");
      }
    }
    out += "\n## By category, single stream\n\n| run | category | n | ITL ms | tok/s/user | OSL | accept length |\n| --- | --- | --- | --- | --- | --- | --- |\n";
    for (const StoredRun& run : loads) {
      const Json categories = at(parsed(run.levels[0]), {"by_category"});
      for (const auto& [name, c] : categories.items()) {
        out += fmt::format("| {} | {} | {} | {} | {} | {} | {} |\n", run.name, name, plain(at(c, {"n"})), cell(at(c, {"itl"})), cell(at(c, {"tok_s_user"})), cell(at(c, {"osl"})), cell(at(c, {"acceptance_length"})));
      }
    }
  }
  if (!evaluations.empty()) {
    out += "\n## Accuracy\n\n| run | task | n | score | SE | no answer | cut off | against | b | c | Δ ± SE | p | verdict |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n";
    for (const StoredRun& run : evaluations) {
      const Json m = parsed(run.levels[0]), c = at(m, {"comparison"});
      out += fmt::format("| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |\n", run.name, plain(at(m, {"name"})), plain(at(m, {"num_examples"})), cell(at(m, {"aggregate", "score"})), cell(at(m, {"score_se"})),
                         cell(at(m, {"aggregate", "no_answer"})), cell(at(m, {"aggregate", "truncated_rate"})), c.is_object() ? fs::path(plain(at(c, {"baseline"}))).filename().string() : "-", plain(at(c, {"b"})), plain(at(c, {"c"})),
                         c.is_object() ? cell(at(c, {"delta"})) + " ± " + cell(at(c, {"delta_se"})) : "-", cell(at(c, {"p_value"})), plain(at(c, {"verdict"})));
    }
  }
  std::string warnings;
  for (const StoredRun& run : runs) warnings += warnings_of(run);
  out += "\n## Warnings\n\n" + (warnings.empty() ? "None.\n" : warnings) + "\n## Again\n\n";
  for (const StoredRun& run : runs) out += fmt::format("    {}\n", plain(at(parsed(run.config), {"command"})));
  return out;
}

Json report_json(const std::vector<StoredRun>& runs) {
  Json out = {{"schema_version", 1}, {"runs", Json::array()}};
  for (const StoredRun& run : runs) {
    Json levels = Json::array();
    for (const std::string& level : run.levels) levels.push_back(parsed(level));
    out["runs"].push_back({{"name", run.name}, {"folder", run.folder.string()}, {"kind", run.evaluation ? "eval" : "bench"}, {"levels", levels}});
  }
  return out;
}

std::string compare_loads(const StoredRun& a, const StoredRun& b, bool force) {
  if (a.evaluation || b.evaluation) raise(ErrorCode::invalid_argument, "{} and {}: wanted two load tests or two evaluations", a.name, b.name);
  std::string out, differences;
  const auto same = [&](const char* what, const Json& x, const Json& y) {
    if (x != y) differences += fmt::format("{}{}: {} and {}", differences.empty() ? "" : "; ", what, plain(x), plain(y));
  };
  const Json a0 = parsed(a.levels[0]), b0 = parsed(b.levels[0]);
  same("workload", at(a0, {"workload", "sha256"}), at(b0, {"workload", "sha256"}));
  same("token source", at(a0, {"token_source"}), at(b0, {"token_source"}));
  same("output cap", at(a0, {"request", "max_tokens"}), at(b0, {"request", "max_tokens"}));
  same("ignore_eos", at(a0, {"request", "ignore_eos"}), at(b0, {"request", "ignore_eos"}));
  std::vector<std::string> names_a, names_b;
  for (const std::string& level : a.levels) names_a.push_back(level_name(parsed(level)));
  for (const std::string& level : b.levels) names_b.push_back(level_name(parsed(level)));
  same("concurrency", fmt::format("{}", fmt::join(names_a, ",")), fmt::format("{}", fmt::join(names_b, ",")));
  if (!differences.empty() && !force) raise(ErrorCode::invalid_argument, "not comparable: {}; --force compares them nevertheless", differences);
  if (!differences.empty()) out += fmt::format("WARNING: forced; not comparable: {}\n\n", differences);

  struct Metric {
    const char* label;
    std::initializer_list<const char*> path;
    int better;  // 1: more is better, -1: less, 0: neither
  };
  static const Metric kMetrics[] = {
      {"TTFT ms, mean", {"latency", "ttft", "mean"}, -1}, {"TTFT ms, p99", {"latency", "ttft", "p99"}, -1}, {"ITL ms, mean", {"latency", "itl", "mean"}, -1}, {"ITL ms, p99", {"latency", "itl", "p99"}, -1},
      {"tok/s/user", {"latency", "tok_s_user", "mean"}, 1}, {"agg tok/s", {"throughput", "output_token_throughput"}, 1}, {"req/s", {"throughput", "request_throughput"}, 1}, {"OSL", {"latency", "osl", "mean"}, 0},
      {"accept length", {"spec", "acceptance_length"}, 1}};
  for (size_t i = 0; i < names_a.size(); ++i) {
    const auto found = std::find(names_b.begin(), names_b.end(), names_a[i]);
    if (found == names_b.end()) continue;
    const Json ma = parsed(a.levels[i]), mb = parsed(b.levels[static_cast<size_t>(found - names_b.begin())]);
    out += fmt::format("C = {}\n\n| | A: {} | B: {} | B / A |\n| --- | --- | --- | --- |\n", names_a[i], a.name, b.name);
    for (const Metric& metric : kMetrics) {
      const Json va = at(ma, metric.path), vb = at(mb, metric.path);
      if (!va.is_number() || !vb.is_number()) continue;
      const double x = number(va), y = number(vb);
      const bool b_wins = metric.better * (y - x) > 0, a_wins = metric.better * (y - x) < 0;
      out += fmt::format("| {} | {}{} | {}{} | {} |\n", metric.label, short_number(x), a_wins ? " *" : "", short_number(y), b_wins ? " *" : "", x != 0 ? short_number(y / x) : "-");
    }
    out += "\n";
  }
  if (at(a0, {"request", "ignore_eos"}) != true) out += "Lengths differ between numeric formats: see req/s and OSL beside tok/s, and compare at equal length with --output-len.\n";
  return out;
}

std::string compare_evaluations(const StoredRun& a, const StoredRun& b) {
  const Json ma = parsed(a.levels[0]), mb = parsed(b.levels[0]);
  for (const auto* m : {&ma, &mb}) {
    if (at(*m, {"partial"}) == true) raise(ErrorCode::invalid_argument, "a partial run is never compared; finish it with eval --resume");
  }
  if (at(ma, {"data_sha256"}) != at(mb, {"data_sha256"})) raise(ErrorCode::invalid_argument, "not comparable: the data differ, {} and {}", plain(at(ma, {"data_sha256"})), plain(at(mb, {"data_sha256"})));
  const Paired p = compare_samples(read_samples(a.folder / "output-rs0.jsonl"), read_samples(b.folder / "output-rs0.jsonl"));
  return fmt::format("A: {} {} ± {}\nB: {} {} ± {}\nOnly A right: b = {}; only B right: c = {}; Δ = (b - c)/n = {} ± {} (n = {}); exact two-sided p = {}\nB against A: {}\n", a.name, cell(at(ma, {"aggregate", "score"})),
                     cell(at(ma, {"score_se"})), b.name, cell(at(mb, {"aggregate", "score"})), cell(at(mb, {"score_se"})), p.b, p.c, short_number(p.delta), short_number(p.delta_error), p.n, short_number(p.p_value), p.verdict);
}
}  // namespace nibble
