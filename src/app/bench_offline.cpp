#include "app/bench_offline.h"

#include <fmt/format.h>

#include <algorithm>
#include <condition_variable>
#include <filesystem>
#include <mutex>
#include <nlohmann/json.hpp>

#include "app/interrupt.h"
#include "app/machine.h"
#include "app/version.h"
#include "base/clock.h"
#include "base/file_io.h"
#include "engine/engine.h"
#include "eval/load_metrics.h"
#include "eval/run_folder.h"
#include "eval/statistics.h"
#include "eval/workload.h"

namespace nibble {
namespace {
using Json = nlohmann::ordered_json;

std::vector<int> numbers(const char* flag, const std::string& text) {
  std::vector<int> out;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(',', at), text.size());
    const std::string part = text.substr(at, end - at);
    if (part.empty() || part.find_first_not_of("0123456789") != std::string::npos || part.size() > 7 || std::stoi(part) < 1) raise(ErrorCode::invalid_argument, "{} {}: wanted numbers above 0, 1,8,32", flag, text);
    out.push_back(std::stoi(part));
    at = end + 1;
  }
  return out;
}

// Runs `prompts` at once through the engine and returns the time of every token of every sequence.
std::vector<std::vector<double>> token_times(Engine& engine, const Workload& workload, int batch, int32_t max_tokens, double& began) {
  std::mutex mutex;
  std::condition_variable done;
  int left = batch;
  std::string failure;
  std::vector<std::vector<double>> times(static_cast<size_t>(batch));
  for (auto& t : times) t.reserve(static_cast<size_t>(max_tokens));
  std::vector<std::unique_ptr<Request>> requests;
  for (int i = 0; i < batch; ++i) {
    auto request = std::make_unique<Request>();
    request->id = fmt::format("bench-{}", i);
    request->prompt = workload.prompts[static_cast<size_t>(i)].ids;
    request->sampling.temperature = 0;
    request->ignore_eos = true;
    request->max_tokens = max_tokens;
    request->on_token = [&, i](TokenEvent&& event) {
      const double now = monotonic_seconds();
      if (event.id >= 0) times[static_cast<size_t>(i)].push_back(now);
      if (event.finish == FinishReason::none) return;
      const std::lock_guard lock(mutex);
      if (event.error) failure = event.error->message;
      if (--left == 0) done.notify_all();
    };
    requests.push_back(std::move(request));
  }
  began = monotonic_seconds();
  for (auto& request : requests) value_or_raise(engine.submit(std::move(request)));
  std::unique_lock lock(mutex);
  done.wait(lock, [&] { return left == 0; });
  if (!failure.empty()) raise(ErrorCode::internal, "{}", failure);
  return times;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return percentile(values, 50);
}
}  // namespace

int run_bench_offline(const BenchOfflineFlags& flags) {
  const InterruptGuard interrupt;
  const std::vector<int> batches = numbers("--batch", flags.batch), inputs = numbers("--input-len", flags.input_len);
  const int most = *std::max_element(batches.begin(), batches.end()), longest = *std::max_element(inputs.begin(), inputs.end());
  ModelFlags model = flags.model;
  model.max_rows = flags.chunked_prefill + most;
  // Whole pages for every sequence, and one page of slack each.
  if (model.max_total_tokens == 0) model.max_total_tokens = static_cast<int64_t>(most) * ((longest + flags.output_len + 15) / 16 + 1) * 16;
  const auto loaded = load_model(model);
  if (longest + flags.output_len > loaded->context_length) {
    raise(ErrorCode::invalid_argument, "--input-len {} + --output-len {}: the model's context is {}", longest, flags.output_len, loaded->context_length);
  }
  Engine engine(*loaded->model, {.max_running_requests = most, .chunked_prefill_tokens = flags.chunked_prefill, .prefix_cache = false, .decode_log_interval = 0});
  const int32_t vocab = loaded->config.vocab_size;
  const std::string gpu = gpu_state();
  if (!flags.json) {
    fmt::print("{} | {} | {} | {}\n\n", loaded->folder.string(), name_of(loaded->quant.algo), loaded->backend->description(), gpu.empty() ? machine_name() : gpu);
    fmt::print("{:>6} {:>7} {:>12} {:>12} {:>12} {:>10} {:>10} {:>12} {:>12}\n", "batch", "input", "prefill ms", "prefill t/s", "step ms p50", "p10", "p99", "decode t/s", "t/s/sequence");
  }
  Json rows = Json::array();
  for (const int input : inputs) {
    for (const int batch : batches) {
      if (InterruptGuard::requested()) return 130;
      const Workload workload = random_workload(batch, input, vocab > 2600 ? 300 : vocab / 8, std::min(vocab, 200000), flags.seed);
      std::vector<double> prefill, steps;
      double began = 0;
      token_times(engine, workload, batch, 2, began);  // warm
      for (int r = 0; r < flags.repeats; ++r) {
        double last = 0;
        for (const auto& t : token_times(engine, workload, batch, 1, began)) last = std::max(last, t.at(0));
        prefill.push_back(last - began);
      }
      // Decode: only the steps in which every sequence decodes, from the last first token to the first last token.
      for (int r = 0; r < std::max(flags.repeats - 1, 1); ++r) {
        const auto times = token_times(engine, workload, batch, static_cast<int32_t>(flags.output_len), began);
        double from = 0, to = 1e300;
        for (const auto& t : times) from = std::max(from, t.front()), to = std::min(to, t.back());
        const std::vector<double>& one = times.back();  // the last prefilled: its tokens mark the steps
        for (size_t i = 1; i < one.size(); ++i) {
          if (one[i - 1] >= from - 1e-3 && one[i] <= to + 1e-3) steps.push_back(one[i] - one[i - 1]);
        }
      }
      const Summary s = summarize(steps);
      const double prefill_s = median(prefill), tokens = static_cast<double>(batch) * input;
      const double decode_rate = s.p50 > 0 ? batch / s.p50 : 0;
      Json step_json = summary_json(s);
      rows.push_back({{"batch", batch}, {"input_len", input}, {"output_len", flags.output_len}, {"prefill_seconds", prefill_s}, {"prefill_tok_s", tokens / prefill_s}, {"prefill_runs", prefill},
                      {"decode_step_seconds", std::move(step_json)}, {"decode_tok_s", decode_rate}, {"tok_s_sequence", decode_rate / batch}, {"mean_context", input + static_cast<double>(flags.output_len) / 2}});
      if (!flags.json) {
        fmt::print("{:>6} {:>7} {:>12.2f} {:>12.1f} {:>12.3f} {:>10.3f} {:>10.3f} {:>12.1f} {:>12.1f}\n", batch, input, prefill_s * 1e3, tokens / prefill_s, s.p50 * 1e3, s.p10 * 1e3, s.p99 * 1e3, decode_rate,
                   decode_rate / batch);
        std::fflush(stdout);
      }
    }
  }
  const Json report = {{"command", flags.command_line}, {"version", kVersion}, {"timestamp", iso_time_now()}, {"model", loaded->folder.string()}, {"load_format", model.load_format}, {"format", name_of(loaded->quant.algo)},
                       {"backend", loaded->backend->description()}, {"kernels", loaded->model->kernels()}, {"machine", machine_name()}, {"gpu", gpu.empty() ? Json(nullptr) : Json(gpu)},
                       {"gpu_after", gpu.empty() ? Json(nullptr) : Json(gpu_state())}, {"load_seconds", loaded->load_seconds}, {"chunked_prefill_tokens", flags.chunked_prefill}, {"rows", rows}};
  if (flags.json) fmt::print("{}\n", report.dump(1));
  if (!flags.out.empty()) {
    const auto folder = make_run_folder(flags.out, "offline", flags.name.empty() ? loaded->folder.filename().string() : flags.name);
    write_file(folder / "metrics.json", report.dump(1) + "\n");
    if (!flags.json) fmt::print("\nwritten: {}\n", folder.string());
  }
  return 0;
}
}  // namespace nibble
