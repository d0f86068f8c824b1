#include "server/metrics.h"

#include <fmt/format.h>

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>

#include "base/clock.h"

namespace nibble {
namespace {
const std::vector<double> kFirstToken{.005, .01, .02, .05, .1, .2, .4, .6, .8, 1, 2, 4, 6, 8, 10, 20, 40, 60, 80, 100, 200, 400};
const std::vector<double> kTokenGap{.002, .004, .006, .008, .01, .015, .02, .025, .03, .035, .04, .06, .08, .1, .2, .4, .6, .8, 1, 2, 4, 6, 8};
const std::vector<double> kTotal{.005, .01, .02, .05, .1, .2, .4, .6, .8, 1, 2, 4, 6, 8, 10, 20, 40, 60, 80, 100, 200, 400, 600, 1200, 1800, 2400};
const std::vector<double> kTokens{1, 10, 50, 100, 200, 500, 1000, 2000, 4000, 8000, 16000, 32000, 64000, 128000, 256000};
}  // namespace

void Histogram::observe(double value) {
  counts_[static_cast<size_t>(std::lower_bound(bounds_.begin(), bounds_.end(), value) - bounds_.begin())].fetch_add(1, std::memory_order_relaxed);
  sum_.fetch_add(value, std::memory_order_relaxed);
}

void Histogram::render(std::string& out, const std::string& name, const std::string& labels) const {
  out += fmt::format("# TYPE {} histogram\n", name);
  int64_t total = 0;
  for (size_t i = 0; i < bounds_.size(); ++i) {
    total += counts_[i];
    out += fmt::format("{}_bucket{{{},le=\"{}\"}} {}\n", name, labels, bounds_[i], total);
  }
  total += counts_.back();
  out += fmt::format("{0}_bucket{{{1},le=\"+Inf\"}} {2}\n{0}_sum{{{1}}} {3}\n{0}_count{{{1}}} {2}\n", name, labels, total, sum_.load());
}

namespace {
const std::vector<double>& either(const std::vector<double>& wanted, const std::vector<double>& usual) { return wanted.empty() ? usual : wanted; }

std::string escaped(const std::string& label) {
  std::string out;
  for (const char c : label) out += c == '"' ? "\\\"" : c == '\\' ? "\\\\" : c == '\n' ? "\\n" : std::string(1, c);
  return out;
}
}  // namespace

namespace {
// Of the whole process, under the names that Prometheus' own clients use.
std::string process_metrics(double start_seconds) {
  long pages = 0, resident = 0;
  if (std::FILE* file = std::fopen("/proc/self/statm", "r")) {
    if (std::fscanf(file, "%ld %ld", &pages, &resident) != 2) resident = 0;
    std::fclose(file);
  }
  std::error_code error;
  int64_t open_files = 0;
  for (auto at = std::filesystem::directory_iterator("/proc/self/fd", error); !error && at != std::filesystem::directory_iterator(); at.increment(error)) ++open_files;
  return fmt::format(
      "# TYPE process_start_time_seconds gauge\nprocess_start_time_seconds {}\n# TYPE process_resident_memory_bytes gauge\nprocess_resident_memory_bytes {}\n"
      "# TYPE process_open_fds gauge\nprocess_open_fds {}\n",
      start_seconds, int64_t{resident} * sysconf(_SC_PAGESIZE), open_files);
}
}  // namespace

Metrics::Metrics(MetricsOptions options)
    : options_(std::move(options)), start_seconds_(static_cast<double>(unix_seconds())), queue_time_(kTotal), first_token_(either(options_.first_token, kFirstToken)), token_gap_(either(options_.token_gap, kTokenGap)), total_(either(options_.total, kTotal)),
      prompt_tokens_(kTokens), output_tokens_(kTokens) {}

void Metrics::count_http_request(const std::string& endpoint, const std::string& method) {
  static constexpr const char* kMethods[] = {"GET", "HEAD", "POST", "PUT", "OPTIONS"};
  const bool is_known = std::find(std::begin(kMethods), std::end(kMethods), method) != std::end(kMethods);
  const std::lock_guard lock(mutex_);
  ++http_requests_[{endpoint, is_known ? method : "other"}];
}

void Metrics::count_http_response(const std::string& endpoint, int status) {
  const std::lock_guard lock(mutex_);
  ++http_responses_[{endpoint, status}];
}

void Metrics::count_active(int change) {
  const std::lock_guard lock(mutex_);
  active_ += change;
}

void Metrics::count_finish(const std::string& reason) {
  const std::lock_guard lock(mutex_);
  ++finishes_[reason];
}

void Metrics::observe_queue_time(double seconds) {
  queue_time_.observe(seconds);
}

void Metrics::observe_request(double first_token_seconds, double total_seconds, int64_t prompt_tokens, int64_t output_tokens) {
  first_token_.observe(first_token_seconds);
  total_.observe(total_seconds);
  prompt_tokens_.observe(static_cast<double>(prompt_tokens));
  output_tokens_.observe(static_cast<double>(output_tokens));
}

void Metrics::observe_token_gap(double seconds) {
  token_gap_.observe(seconds);
}

std::string Metrics::render(const EngineStats& s, const std::string& model) const {
  std::string labels = fmt::format("model_name=\"{}\"", escaped(model));
  for (const auto& [name, value] : options_.labels) labels += fmt::format(",{}=\"{}\"", name, escaped(value));
  std::string out;
  const auto line = [&](const char* type, const char* name, double value) { out += fmt::format("# TYPE sglang:{0} {1}\nsglang:{0}{{{2}}} {3}\n", name, type, labels, value); };
  const auto share = [](int32_t used, int32_t total) { return total > 0 ? static_cast<double>(used) / total : 0.0; };
  line("counter", "prompt_tokens_total", static_cast<double>(s.prompt_tokens));
  line("counter", "generation_tokens_total", static_cast<double>(s.generated_tokens));
  line("counter", "cached_tokens_total", static_cast<double>(s.cached_tokens));
  line("counter", "num_requests_total", static_cast<double>(s.requests));
  line("counter", "num_aborted_requests_total", static_cast<double>(s.aborted));
  line("counter", "num_so_requests_total", static_cast<double>(s.structured));
  line("counter", "num_retracted_requests_total", static_cast<double>(s.retracted));
  line("counter", "spec_verify_calls_total", static_cast<double>(s.speculation.rounds));
  line("counter", "spec_accepted_drafts_total", static_cast<double>(s.speculation.accepted));
  line("counter", "spec_proposed_drafts_total", static_cast<double>(s.speculation.drafted));
  line("counter", "spec_plain_steps_total", static_cast<double>(s.speculation.plain_steps));
  line("gauge", "num_running_reqs", s.running);
  line("gauge", "num_queue_reqs", s.queued);
  line("gauge", "num_used_tokens", (s.full_pages_used - s.full_pages_cached) * 16.0);
  line("gauge", "token_usage", share(s.full_pages_used, s.full_pages_total));
  line("gauge", "full_token_usage", share(s.full_pages_used, s.full_pages_total));
  line("gauge", "swa_token_usage", share(s.sliding_pages_used, s.sliding_pages_total));
  line("gauge", "gen_throughput", s.generation_throughput);
  line("gauge", "utilization", share(s.running, s.max_running));
  line("gauge", "cache_hit_rate", s.prompt_tokens > 0 ? static_cast<double>(s.cached_tokens) / static_cast<double>(s.prompt_tokens) : 0.0);
  line("gauge", "max_total_num_tokens", s.full_pages_total * 16.0);
  line("gauge", "spec_accept_length", s.speculation.acceptance_length());
  line("gauge", "spec_accept_rate", s.speculation.acceptance_rate());
  line("gauge", "spec_num_steps", s.num_drafts);
  line("gauge", "spec_num_draft_tokens", s.max_drafts > 0 ? s.num_drafts + 1 : 0);
  if (s.max_drafts > 0) {
    out += "# TYPE sglang:spec_accepted_drafts_rounds_total counter\n";
    for (int32_t n = 0; n <= s.max_drafts; ++n) {
      out += fmt::format("sglang:spec_accepted_drafts_rounds_total{{{},accepted=\"{}\"}} {}\n", labels, n, s.speculation.histogram[static_cast<size_t>(n)]);
    }
    out += "# TYPE sglang:spec_position_accept_rate gauge\n";
    for (size_t i = 0; i < static_cast<size_t>(s.max_drafts); ++i) {
      const double rate = s.speculation.offered[i] > 0 ? static_cast<double>(s.speculation.reached[i]) / static_cast<double>(s.speculation.offered[i]) : 0.0;
      out += fmt::format("sglang:spec_position_accept_rate{{{},position=\"{}\"}} {}\n", labels, i + 1, rate);
    }
  }
  line("gauge", "is_cuda_graph", 0);
  const std::lock_guard lock(mutex_);
  out += "# TYPE sglang:http_requests_total counter\n";
  for (const auto& [key, count] : http_requests_) out += fmt::format("sglang:http_requests_total{{{},endpoint=\"{}\",method=\"{}\"}} {}\n", labels, key.first, key.second, count);
  out += "# TYPE sglang:http_responses_total counter\n";
  for (const auto& [key, count] : http_responses_) out += fmt::format("sglang:http_responses_total{{{},endpoint=\"{}\",status_code=\"{}\"}} {}\n", labels, key.first, key.second, count);
  line("gauge", "http_requests_active", static_cast<double>(active_));
  out += "# TYPE nibble:finished_choices_total counter\n";
  for (const char* reason : {"stop_token", "stop_string", "tool_calls", "length", "repetition", "abort"}) {
    const auto at = finishes_.find(reason);
    out += fmt::format("nibble:finished_choices_total{{{},reason=\"{}\"}} {}\n", labels, reason, at == finishes_.end() ? 0 : at->second);
  }
  queue_time_.render(out, "sglang:queue_time_seconds", labels);
  first_token_.render(out, "sglang:time_to_first_token_seconds", labels);
  token_gap_.render(out, "sglang:inter_token_latency_seconds", labels);
  total_.render(out, "sglang:e2e_request_latency_seconds", labels);
  prompt_tokens_.render(out, "sglang:prompt_tokens_histogram", labels);
  output_tokens_.render(out, "sglang:generation_tokens_histogram", labels);
  return out + process_metrics(start_seconds_);
}
}  // namespace nibble
