// What the load generator costs: CPU time of its thread while it reads 32 streams of 300 tokens/s over loopback. Above 5 % of a core its own timings would lag.
#include <benchmark/benchmark.h>
#include <sys/resource.h>

#include <nlohmann/json.hpp>
#include <mutex>
#include <string>
#include <thread>

#include "base/clock.h"
#include "eval/load_metrics.h"
#include "eval/load_run.h"
#include "server/http_server.h"

namespace nibble {
namespace {
constexpr int kStreams = 32, kTokens = 900;
constexpr double kRate = 300;

double thread_cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_THREAD, &usage);
  const auto seconds = [](const timeval& t) { return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec); };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

void client_cpu_share(benchmark::State& state) {
  HttpServer server({.port = 0, .num_threads = 2});
  // One ticker sends a token to every stream at once, as an engine's step does.
  std::mutex mutex;
  std::vector<std::pair<std::shared_ptr<Exchange>, int>> streams;
  std::atomic<bool> stop{false};
  server.serve([&](const HttpRequest&, const std::shared_ptr<Exchange>& exchange) {
    exchange->start_events();
    const std::lock_guard lock(mutex);
    streams.emplace_back(exchange, 0);
  });
  const std::string chunk =
      R"({"id":"chatcmpl-0123456789abcdef0123456789abcdef","object":"chat.completion.chunk","created":1795508034,"model":"default","choices":[{"index":0,"delta":{"content":" token","reasoning_content":null},"logprobs":null,"finish_reason":null,"matched_stop":null}]})";
  const std::string last = R"({"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":900,"total_tokens":910}})";
  std::thread ticker([&] {
    double next = monotonic_seconds();
    while (!stop) {
      next += 1 / kRate;
      std::this_thread::sleep_for(std::chrono::duration<double>(std::max(next - monotonic_seconds(), 0.0)));
      const std::lock_guard lock(mutex);
      for (auto& [exchange, sent] : streams) {
        if (++sent <= kTokens) exchange->event(chunk);
        if (sent == kTokens) {
          exchange->event(last);
          exchange->event("[DONE]");
          exchange->finish();
        }
      }
      std::erase_if(streams, [](const auto& s) { return s.second >= kTokens; });
    }
  });
  const auto transport = make_http_transport({.host = "127.0.0.1", .port = std::to_string(server.port())}, {});
  const Workload workload = words_workload(kStreams, 10, 1);
  for (auto _ : state) {
    const double cpu = thread_cpu_seconds(), began = monotonic_seconds();
    const LoadResult result = run_load(*transport, workload, 0, kStreams, {.concurrency = kStreams});
    const double wall = monotonic_seconds() - began;
    state.counters["of_a_core"] = (thread_cpu_seconds() - cpu) / wall;
    state.counters["tokens_per_second"] = kStreams * kTokens / wall;
    double itl = 0;
    for (const RequestRecord& r : result.records) itl += metrics_of(r).itl.value_or(0) / kStreams;
    state.counters["itl_ms"] = itl;
  }
  stop = true;
  ticker.join();
  server.stop();
}
BENCHMARK(client_cpu_share)->Iterations(2)->Unit(benchmark::kMillisecond)->UseRealTime();
}  // namespace
}  // namespace nibble
