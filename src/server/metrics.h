// Counters, gauges and histograms in the text format 0.0.4, under the names that SGLang's dashboards use.
#pragma once

#include <atomic>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "engine/engine.h"

namespace nibble {
struct MetricsOptions {
  bool enabled = true;
  std::map<std::string, std::string> labels;               // on every line, beside model_name
  std::vector<double> first_token, token_gap, total;        // bounds of the histograms in seconds; empty: SGLang's
};

// Takes values from any thread without waiting for another.
class Histogram {
 public:
  explicit Histogram(std::vector<double> bounds) : bounds_(std::move(bounds)), counts_(bounds_.size() + 1) {}
  void observe(double value);
  void render(std::string& out, const std::string& name, const std::string& labels) const;

 private:
  std::vector<double> bounds_;
  std::vector<std::atomic<int64_t>> counts_;
  std::atomic<double> sum_{0};
};

class Metrics {
 public:
  explicit Metrics(MetricsOptions options = {});
  bool enabled() const { return options_.enabled; }
  void count_http_request(const std::string& endpoint, const std::string& method);
  void count_http_response(const std::string& endpoint, int status);
  void count_active(int change);  // exchanges that are not over
  void count_finish(const std::string& reason);  // of a choice: stop_token, stop_string, tool_calls, length, repetition, abort
  void observe_queue_time(double seconds);
  void observe_request(double first_token_seconds, double total_seconds, int64_t prompt_tokens, int64_t output_tokens);
  void observe_token_gap(double seconds);
  std::string render(const EngineStats& stats, const std::string& model) const;

 private:
  MetricsOptions options_;
  double start_seconds_;
  mutable std::mutex mutex_;
  std::map<std::pair<std::string, std::string>, int64_t> http_requests_;
  std::map<std::pair<std::string, int>, int64_t> http_responses_;
  std::map<std::string, int64_t> finishes_;
  int64_t active_ = 0;
  Histogram queue_time_, first_token_, token_gap_, total_, prompt_tokens_, output_tokens_;
};
}  // namespace nibble
