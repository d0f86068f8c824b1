#include "app/bench_offline.h"

#include <fmt/format.h>

#include <algorithm>
#include <condition_variable>
#include <filesystem>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>

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
constexpr double kSameStep = 50e-6;  // seconds; a step over any model takes longer

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

struct Token {
  double seconds;
  bool ends_step;  // a round of speculation may give several tokens
};

// Runs the workload's first prompts at once through the engine and returns the tokens of every sequence.
std::vector<std::vector<Token>> run_batch(Engine& engine, const Workload& workload, int batch, int32_t max_tokens, double& began) {
  std::mutex mutex;
  std::condition_variable done;
  int left = batch;
  std::string failure;
  std::vector<std::vector<Token>> tokens(static_cast<size_t>(batch));
  for (auto& t : tokens) t.reserve(static_cast<size_t>(max_tokens));
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
      std::vector<Token>& mine = tokens[static_cast<size_t>(i)];
      // Tokens of one round come one behind the other, a step apart from the next.
      if (event.id >= 0) {
        if (!mine.empty() && now - mine.back().seconds < kSameStep) mine.back().ends_step = false;
        mine.push_back({now, true});
      }
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
  return tokens;
}

// The steps in which every sequence decodes, from the last first token to the first last token.
struct Decoding {
  std::vector<double> steps;  // seconds
  double seconds = 0;
  int64_t tokens = 0;
  DraftCounts before, after;

  void add(const std::vector<std::vector<Token>>& sequences) {
    double from = 0, to = 1e300;
    for (const auto& t : sequences) from = std::max(from, t.front().seconds), to = std::min(to, t.back().seconds);
    if (to <= from) return;
    seconds += to - from;
    for (const auto& t : sequences) {
      for (const Token& token : t) tokens += token.seconds > from && token.seconds <= to;
    }
    double last = 0;
    for (const Token& token : sequences.back()) {  // the last prefilled: its tokens mark the steps
      if (!token.ends_step) continue;
      if (last > 0 && last >= from - 1e-3 && token.seconds <= to + 1e-3) steps.push_back(token.seconds - last);
      last = token.seconds;
    }
  }
  double drafts() const {  // a round and sequence
    const auto rounds = static_cast<double>(after.rounds + after.plain_steps - before.rounds - before.plain_steps);
    return rounds > 0 ? static_cast<double>(after.drafted - before.drafted) / rounds : 0;
  }
  double acceptance_length() const {
    const auto rounds = static_cast<double>(after.rounds - before.rounds);
    return rounds > 0 ? 1 + static_cast<double>(after.accepted - before.accepted) / rounds : 1;
  }
};

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
  SpeculativeFlags& speculative = model.speculative;
  check_speculative_flags(speculative);
  const bool speculates = !speculative.algorithm.empty();
  if (!speculates && !flags.forced.empty()) raise(ErrorCode::invalid_argument, "--force-acceptance: wants --speculative-algorithm NEXTN and the assistant beside it");
  const auto most_drafts = static_cast<int>(speculates ? speculative.num_steps : 0);
  model.max_rows = flags.chunked_prefill + most * (most_drafts + 1);
  model.max_running = most;
  // Whole pages for every sequence, and one page of slack each.
  if (model.max_total_tokens == 0) model.max_total_tokens = static_cast<int64_t>(most) * ((longest + flags.output_len + most_drafts + 15) / 16 + 1) * 16;
  const auto loaded = load_model(model);
  if (longest + flags.output_len > loaded->context_length) {
    raise(ErrorCode::invalid_argument, "--input-len {} + --output-len {}: the model's context is {}", longest, flags.output_len, loaded->context_length);
  }
  // Without the assistant first, then with it: 0 as it comes, above 0 forced.
  std::vector<std::optional<double>> modes{std::nullopt};
  if (speculates && flags.forced.empty()) modes.push_back(0.0);
  for (const double forced : flags.forced) modes.push_back(forced);
  const int32_t vocab = loaded->config.vocab_size;
  const std::string gpu = gpu_state();
  if (!flags.json) {
    fmt::print("{} | {} | {} | {}\n\n", loaded->folder.string(), name_of(loaded->quant.algo), loaded->backend->description(), gpu.empty() ? machine_name() : gpu);
    if (!flags.forced.empty()) fmt::print("SYNTHETIC acceptance: tokens are taken whether right or wrong; timing only\n");
    fmt::print("{:>6} {:>7} {:>10} {:>12} {:>12} {:>12} {:>10} {:>10} {:>7} {:>7} {:>12} {:>12}\n", "batch", "input", "drafts", "prefill ms", "prefill t/s", "step ms p50", "p10", "p99", "t/step", "drafts", "decode t/s",
               "t/s/sequence");
  }
  Json rows = Json::array();
  for (const int input : inputs) {
    for (const int batch : batches) {
      double plain_rate = 0;
      for (const std::optional<double>& mode : modes) {
        if (InterruptGuard::requested()) return 130;
        EngineOptions options = loaded->engine_options({.max_running_requests = most, .chunked_prefill_tokens = flags.chunked_prefill, .prefix_cache = false, .decode_log_interval = 0});
        if (!mode) options.drafter = nullptr;
        options.speculation.forced_acceptance_length = mode.value_or(0.0);
        Engine engine(*loaded->model, options);
        const Workload workload = random_workload(batch, input, vocab > 2600 ? 300 : vocab / 8, std::min(vocab, 200000), flags.seed);
        const auto output = static_cast<int32_t>(flags.output_len);
        std::vector<double> prefill;
        double began = 0;
        run_batch(engine, workload, batch, mode ? output : 2, began);  // warm; the choice of drafts learns its times
        for (int r = 0; r < flags.repeats; ++r) {
          double last = 0;
          for (const auto& t : run_batch(engine, workload, batch, 1, began)) last = std::max(last, t.at(0).seconds);
          prefill.push_back(last - began);
        }
        Decoding decoding;
        decoding.before = engine.stats().speculation;
        for (int r = 0; r < std::max(flags.repeats - 1, 1); ++r) decoding.add(run_batch(engine, workload, batch, output, began));
        decoding.after = engine.stats().speculation;
        const Summary s = summarize(decoding.steps);
        const double prefill_s = median(prefill), tokens = static_cast<double>(batch) * input;
        // With drafts a step gives a varying number of tokens, so the rate is of the whole time; without, of the median step.
        const double whole_rate = decoding.seconds > 0 ? static_cast<double>(decoding.tokens) / decoding.seconds : 0;
        const double decode_rate = mode ? whole_rate : s.p50 > 0 ? batch / s.p50 : 0;
        if (!mode) plain_rate = whole_rate;  // gains compare like with like
        Json step_json = summary_json(s);
        rows.push_back({{"batch", batch}, {"input_len", input}, {"output_len", flags.output_len}, {"prefill_seconds", prefill_s}, {"prefill_tok_s", tokens / prefill_s}, {"prefill_runs", prefill},
                        {"decode_step_seconds", std::move(step_json)}, {"decode_tok_s", decode_rate}, {"tok_s_sequence", decode_rate / batch}, {"mean_context", input + static_cast<double>(flags.output_len) / 2}});
        if (mode) {
          rows.back()["speculation"] = {{"synthetic", *mode > 0}, {"forced_acceptance_length", *mode}, {"acceptance_length", decoding.acceptance_length()}, {"mean_drafts", decoding.drafts()}, {"max_drafts", most_drafts},
                                        {"gain", plain_rate > 0 ? decode_rate / plain_rate : 0.0}};
        }
        if (!flags.json) {
          fmt::print("{:>6} {:>7} {:>10} {:>12.2f} {:>12.1f} {:>12.3f} {:>10.3f} {:>10.3f} {:>7.2f} {:>7.2f} {:>12.1f} {:>12.1f}{}\n", batch, input, !mode ? "none" : *mode > 0 ? fmt::format("forced {:.2f}", *mode) : "real",
                     prefill_s * 1e3, tokens / prefill_s, s.p50 * 1e3, s.p10 * 1e3, s.p99 * 1e3, decoding.acceptance_length(), decoding.drafts(), decode_rate, decode_rate / batch,
                     mode && plain_rate > 0 ? fmt::format("  {:.2f}x", decode_rate / plain_rate) : "");
          std::fflush(stdout);
        }
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
