#include "app/bench_verify.h"

#include <fmt/format.h>

#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <nlohmann/json.hpp>

#include "app/interrupt.h"
#include "base/clock.h"
#include "base/error.h"
#include "eval/workload.h"
#include "text/chat_messages.h"
#include "text/chat_template.h"

namespace nibble {
namespace {
using Json = nlohmann::ordered_json;
// Two best tokens further apart than this are no tie of rounding.
constexpr float kTie = 0.05f;

struct Reply {
  std::vector<int32_t> ids;
  std::vector<float> logprobs, gaps;  // gap: ln p of the likeliest over the second
};

struct Block {
  std::vector<Reply> replies;
  double seconds = 0;
  int64_t tokens = 0;
  EngineStats stats;
};

// All prompts, at most `concurrency` at a time.
Block run_block(const LoadedModel& loaded, const std::vector<std::vector<int32_t>>& prompts, int concurrency, const BenchVerifyFlags& flags, bool speculate) {
  EngineOptions options = loaded.engine_options({.max_running_requests = concurrency, .prefix_cache = false, .decode_log_interval = 0});
  if (!speculate) options.drafter = nullptr;
  options.speculation.forced_acceptance_length = flags.forced;
  Engine engine(*loaded.model, options);
  Block block;
  block.replies.resize(prompts.size());
  std::mutex mutex;
  std::condition_variable done;
  size_t left = prompts.size();
  std::string failure;
  const double began = monotonic_seconds();
  for (size_t i = 0; i < prompts.size(); ++i) {
    auto request = std::make_unique<Request>();
    request->id = std::to_string(i);
    request->prompt = prompts[i];
    request->max_tokens = flags.max_tokens;
    request->sampling.temperature = 0;
    request->top_logprobs = flags.forced > 0 ? -1 : 2;
    request->stop_ids = loaded.generation.eos_token_ids;
    request->ignore_eos = flags.forced > 0;
    request->on_token = [&, i](TokenEvent&& event) {
      const std::lock_guard lock(mutex);
      Reply& reply = block.replies[i];
      if (event.id >= 0) {
        reply.ids.push_back(event.id);
        reply.logprobs.push_back(event.logprob);
        reply.gaps.push_back(event.top.size() == 2 ? event.top[0].logprob - event.top[1].logprob : 0.0f);
      }
      if (event.finish == FinishReason::none) return;
      if (event.error) failure = event.error->message;
      if (--left == 0) done.notify_all();
    };
    value_or_raise(engine.submit(std::move(request)));
  }
  {
    std::unique_lock lock(mutex);
    done.wait(lock, [&] { return left == 0; });
  }
  block.seconds = monotonic_seconds() - began;
  if (!failure.empty()) raise(ErrorCode::internal, "{}", failure);
  for (const Reply& reply : block.replies) block.tokens += static_cast<int64_t>(reply.ids.size());
  engine.drain(10);
  block.stats = engine.stats();
  return block;
}

std::vector<std::vector<int32_t>> make_prompts(const LoadedModel& loaded, const BenchVerifyFlags& flags) {
  std::vector<std::vector<int32_t>> prompts;
  const int32_t longest = loaded.context_length - flags.max_tokens - 1;
  if (!std::filesystem::exists(loaded.tokenizer_folder / "tokenizer.json")) {
    for (int i = 0; i < flags.num_prompts; ++i) {
      for (const WorkloadPrompt& p : random_workload(1, std::min(longest, 8 + i * 37 % 200), 8, loaded.config.vocab_size, static_cast<uint64_t>(i)).prompts) prompts.push_back(p.ids);
    }
    return prompts;
  }
  const Tokenizer tokenizer = Tokenizer::load(loaded.tokenizer_folder);
  const ChatTemplate chat_template = value_or_raise(ChatTemplate::load({loaded.tokenizer_folder, {}, {}}));
  const Json kwargs = Json::object();
  for (const WorkloadPrompt& prompt : load_workload(flags.prompts.empty() ? own_workload() : std::filesystem::path(flags.prompts)).prompts) {
    if (prompts.size() == static_cast<size_t>(flags.num_prompts)) break;
    Json messages = Json::array({{{"role", "user"}, {"content", prompt.turns.at(0)}}});
    value_or_raise(normalize_messages(messages));
    const MarkedText text = value_or_raise(chat_template.render(messages, {.tools = nullptr, .kwargs = &kwargs, .add_generation_prompt = true}));
    auto ids = tokenizer.encode_marked(text.text, text.trusted);
    if (static_cast<int32_t>(ids.size()) <= longest) prompts.push_back(std::move(ids));
  }
  return prompts;
}

// How two sets of replies to the same prompts compare.
struct Comparison {
  int64_t same_ids = 0, same_bits = 0, beyond_ties = 0;
  Json differences = Json::array();  // the first of each reply
};
Comparison compare(const std::vector<Reply>& plain, const std::vector<Reply>& speculative) {
  Comparison out;
  for (size_t i = 0; i < plain.size(); ++i) {
    const Reply &a = plain[i], &b = speculative[i];
    if (a.ids == b.ids) {
      ++out.same_ids;
      out.same_bits += std::memcmp(a.logprobs.data(), b.logprobs.data(), a.logprobs.size() * sizeof(float)) == 0;
      continue;
    }
    const size_t at = static_cast<size_t>(std::mismatch(a.ids.begin(), a.ids.end(), b.ids.begin(), b.ids.end()).first - a.ids.begin());
    const float gap = at < a.gaps.size() ? a.gaps[at] : 0.0f;
    out.beyond_ties += gap > kTie;
    out.differences.push_back({{"prompt", i}, {"position", at}, {"top_two_gap", gap}});
  }
  return out;
}
}  // namespace

int run_bench_verify(const BenchVerifyFlags& given) {
  const InterruptGuard interrupt;
  BenchVerifyFlags flags = given;
  SpeculativeFlags& s = flags.model.speculative;
  if (s.algorithm.empty()) s.algorithm = "NEXTN";
  if (s.draft_model_path.empty()) s.draft_model_path = (load_configs(flags.model)->folder / "assistant").string();
  check_speculative_flags(s);
  const int most = *std::max_element(flags.concurrency.begin(), flags.concurrency.end());
  flags.model.max_rows = 512 + most * static_cast<int32_t>(s.num_steps + 1);
  const auto loaded = load_model(flags.model);
  const auto prompts = make_prompts(*loaded, flags);
  Json rows = Json::array();
  int64_t different = 0;
  double first_length = 0;
  for (const int concurrency : flags.concurrency) {
    if (InterruptGuard::requested()) return 130;
    const Block plain = run_block(*loaded, prompts, concurrency, flags, false), fast = run_block(*loaded, prompts, concurrency, flags, true);
    const DraftCounts& counts = fast.stats.speculation;
    const double gain = plain.seconds / static_cast<double>(plain.tokens) / (fast.seconds / static_cast<double>(fast.tokens));
    Json row = {{"concurrency", concurrency}, {"prompts", prompts.size()}, {"tokens", fast.tokens}, {"plain_tok_s", static_cast<double>(plain.tokens) / plain.seconds},
                {"spec_tok_s", static_cast<double>(fast.tokens) / fast.seconds}, {"spec_gain", gain}, {"acceptance_length", counts.acceptance_length()},
                {"acceptance_rate", counts.acceptance_rate()}, {"rounds", counts.rounds}, {"spec_step_share", counts.rounds > 0 ? static_cast<double>(counts.rounds) / static_cast<double>(counts.rounds + counts.plain_steps) : 0.0}};
    row["histogram"] = Json::array();
    row["position_rate"] = Json::array();
    for (int64_t n = 0; n <= s.num_steps; ++n) row["histogram"].push_back(counts.histogram[static_cast<size_t>(n)]);
    for (size_t i = 0; i < static_cast<size_t>(s.num_steps); ++i) {
      row["position_rate"].push_back(counts.offered[i] > 0 ? static_cast<double>(counts.reached[i]) / static_cast<double>(counts.offered[i]) : 0.0);
    }
    if (first_length == 0) first_length = counts.acceptance_length();
    row["acceptance_length_change"] = first_length > 0 ? counts.acceptance_length() / first_length - 1 : 0.0;
    std::string verdict = fmt::format("SYNTHETIC acceptance {:.2f}: timing only", flags.forced);
    if (flags.forced > 0) {
      row["synthetic"] = true;
    } else {
      const Comparison c = compare(plain.replies, fast.replies);
      different += static_cast<int64_t>(prompts.size()) - c.same_bits;
      row["same_ids"] = c.same_ids;
      row["same_bits"] = c.same_bits;
      row["differences_beyond_ties"] = c.beyond_ties;
      row["differences"] = c.differences;
      verdict = fmt::format("{} of {} replies have the same ids, {} the same bits{}", c.same_ids, prompts.size(), c.same_bits,
                            c.beyond_ties > 0 ? fmt::format("; {} differences are no ties", c.beyond_ties) : "");
    }
    if (!flags.json) {
      fmt::print("concurrency {:>3}: {}\n  acceptance length {:.3f} ({:+.2f} % of the first), rate {:.3f}, {} rounds in {:.0f} % of the steps\n  {:.1f} tok/s without, {:.1f} with: {:.2f}x{}\n", concurrency, verdict,
                 counts.acceptance_length(), 100 * row["acceptance_length_change"].get<double>(), counts.acceptance_rate(), counts.rounds, 100 * row["spec_step_share"].get<double>(),
                 row["plain_tok_s"].get<double>(), row["spec_tok_s"].get<double>(), gain, gain < 1 ? "  (speculation loses here)" : "");
      std::fflush(stdout);
    }
    rows.push_back(std::move(row));
  }
  if (flags.json) fmt::print("{}\n", Json{{"model", loaded->folder.string()}, {"device", loaded->backend->description()}, {"max_drafts", s.num_steps}, {"adaptive", s.adaptive}, {"rows", rows}}.dump());
  return different == 0 ? 0 : 1;
}
}  // namespace nibble
