#include "engine/engine.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <limits>
#include <mutex>
#include <thread>
#include <unordered_map>

#include "base/clock.h"
#include "base/log.h"
#include "engine/engine_log.h"
#include "engine/scheduler.h"

namespace nibble {
namespace {
SchedulerOptions scheduler_options(const ForwardModel& model, const EngineOptions& options) {
  return {.max_running = options.max_running_requests, .prefill_tokens = options.chunked_prefill_tokens, .max_rows = model.max_rows(),
          .prefix_cache = options.prefix_cache, .policy = options.schedule_policy, .drafts = options.drafter && options.speculation.max_drafts > 0};
}

SpeculationOptions speculation_options(const EngineOptions& options) {
  SpeculationOptions out = options.speculation;
  out.max_drafts = options.drafter ? std::min(out.max_drafts, options.drafter->max_drafts()) : 0;
  return out;
}

// Steps that fail one after the other, none for want of memory, until nothing better is expected of the next.
constexpr int kMaxFailedSteps = 5;
}  // namespace

struct Engine::Impl {
  ForwardModel& model;
  EngineOptions options;
  Scheduler scheduler;
  Sampler sampler;
  std::vector<float> logits;
  // Of a step whose logits the model keeps.
  std::vector<LogitEdit> edits;
  std::vector<float> temperatures;
  std::vector<Candidate> ranked;
  std::vector<RowSummary> summaries;
  std::vector<int32_t> masked_rows;
  std::vector<uint32_t> masks;  // of masked_rows; of one row where the logits are on the host
  int32_t num_ranked = 0;
  // Sequences that chose a token in this step and go on, with the logit row of their newest one.
  struct Going {
    Sequence* sequence;
    int32_t logit_row;
  };
  std::vector<Going> going;
  // Where the model computes aside, what a step has to say is said while the next one is under way.
  struct Said {
    std::shared_ptr<RequestState> state;
    TokenEvent event;
  };
  std::vector<Said> unsaid;
  DraftController controller;
  double forced = 0;  // drafts owed by a forced acceptance length

  // What other threads hand over, under `mutex`.
  struct Cancel {
    uint64_t handle;  // 0: all
    bool silent;
  };
  mutable std::mutex mutex;
  std::condition_variable wake, idle;
  struct Arrival {
    uint64_t handle;
    double time;
    std::unique_ptr<Request> request;
  };
  std::vector<Arrival> arrivals;
  std::vector<Cancel> cancels;
  std::unordered_map<std::string, uint64_t> live;  // handles by id of requests not yet finished
  uint64_t last_handle = 0;
  int32_t num_queued = 0;                // requests that wait, arrivals included
  bool stopping = false, refusing = false, failed = false, busy = false, flush_wanted = false, flush_done = false;
  EngineStats published;

  // The engine thread's own.
  EngineStats counts;
  EngineLog log;
  int num_failed_steps = 0;  // in a row
  std::thread thread;

  Impl(ForwardModel& m, EngineOptions o) : model(m), options(std::move(o)), scheduler(m.kv_geometry(), scheduler_options(m, options)), controller(speculation_options(options)),
        log(options.decode_log_interval, m.kv_geometry().page_tokens) {
    counts.max_drafts = counts.num_drafts = speculation_options(options).max_drafts;
    counts.max_running = options.max_running_requests;
    publish();
    thread = std::thread([this] {
      try {
        loop();
      } catch (const std::exception& error) {
        give_up(error.what());
      }
    });
  }

  ~Impl() {
    {
      const std::lock_guard lock(mutex);
      stopping = refusing = true;
    }
    wake.notify_all();
    thread.join();
  }

  void loop() {
    while (true) {
      std::vector<Arrival> new_requests;
      std::vector<Cancel> new_cancels;
      bool flush = false;
      const bool has_work = scheduler.num_running() + scheduler.num_waiting() > 0;
      if (!has_work) say();
      {
        std::unique_lock lock(mutex);
        busy = has_work || !arrivals.empty();
        if (!busy) {
          published.last_progress_seconds = monotonic_seconds();
          idle.notify_all();
          wake.wait_for(lock, std::chrono::seconds(5), [&] { return stopping || !arrivals.empty() || !cancels.empty() || flush_wanted; });
          published.last_progress_seconds = monotonic_seconds();
        }
        busy = published.busy = has_work || !arrivals.empty();  // also what came while this waited: a drain must not overlook it
        if (stopping) cancels.push_back({0, false});
        new_requests.swap(arrivals);
        new_cancels.swap(cancels);
        flush = flush_wanted;
      }
      for (Arrival& arrival : new_requests) {
        auto state = std::make_shared<RequestState>();
        state->request = std::move(arrival.request);
        state->handle = arrival.handle;
        state->arrived = arrival.time;
        state->suppressed_after_thought = options.suppress_tokens;
        state->suppressed_after_thought.push_back(state->request->thinking.open_id);
        ++counts.requests;
        counts.structured += state->request->grammar != nullptr;
        counts.prompt_tokens += static_cast<int64_t>(state->request->prompt.size());
        scheduler.add(std::move(state));
      }
      for (const Cancel& cancel : new_cancels) apply(cancel);
      if (!new_cancels.empty()) say();
      if (flush) {
        const bool done = scheduler.flush_cache();
        publish();  // whoever hears of it may look at the pages at once
        const std::lock_guard lock(mutex);
        flush_done = done;
        flush_wanted = false;
        idle.notify_all();
      }
      {
        const std::lock_guard lock(mutex);
        if (stopping) {
          busy = false;
          idle.notify_all();
          return;
        }
      }
      if (!step()) return;
      publish();
    }
  }

  // Nothing can be computed any more: all that was asked for ends with an error, all that will be is refused.
  void give_up(const std::string& why) {
    log_error("the engine has failed and computes nothing any more: {}", why);
    std::vector<Arrival> unheard;
    {
      const std::lock_guard lock(mutex);
      refusing = failed = true;
      unheard.swap(arrivals);
    }
    const auto error = [] { return Error(ErrorCode::internal, "the engine has failed; the server ends"); };
    if (options.on_failure) options.on_failure(why);
    for (Sequence* s : scheduler.all()) end_with_error(*s, error());
    say();
    for (const Arrival& arrival : unheard) {
      if (arrival.request->on_token) arrival.request->on_token({.choice = 0, .id = -1, .logprob = 0, .top = {}, .finish = FinishReason::abort, .error = error(), .cached_tokens = 0});
    }
    publish();
    const std::lock_guard lock(mutex);
    live.clear();
    busy = flush_wanted = false;
    idle.notify_all();
  }

  void apply(const Cancel& cancel) {
    for (Sequence* sequence : scheduler.find(cancel.handle)) {
      sequence->state->silent |= cancel.silent;
      // Choices that have not been forked yet end with the first.
      if (!sequence->forked && sequence->choice == 0) sequence->state->unfinished_choices = 1;
      ++counts.aborted;
      end(*sequence, {.choice = sequence->choice, .id = -1, .logprob = 0, .top = {}, .finish = FinishReason::abort,
                      .error = Error(ErrorCode::cancelled, "the request was cancelled"), .cached_tokens = sequence->cached_tokens},
          /*keep_prefix=*/true);
    }
  }

  void emit(Sequence& sequence, TokenEvent&& event) {
    unsaid.push_back({sequence.state, std::move(event)});
    if (model.kept_logit_rows() == 0) say();
  }

  void say() {
    for (Said& s : unsaid) {
      if (!s.state->silent && s.state->request->on_token) s.state->request->on_token(std::move(s.event));
    }
    unsaid.clear();
  }

  // The choice's last event; then it is gone.
  void end(Sequence& sequence, TokenEvent&& event, bool keep_prefix) {
    const std::shared_ptr<RequestState> state = sequence.state;
    const bool last = --state->unfinished_choices == 0;
    if (last) {  // before the event, so that whoever hears it may use the id again
      const std::lock_guard lock(mutex);
      live.erase(state->request->id);
    }
    emit(sequence, std::move(event));
    scheduler.remove(sequence, keep_prefix);
  }

  // False: it was the last one.
  bool step() {
    const double began = monotonic_seconds();
    const std::vector<PlannedRows> plan = scheduler.plan();
    if (plan.empty()) {
      refuse_what_cannot_run();
      say();
      return true;
    }
    std::vector<int32_t> ids, logit_rows;
    std::vector<SequenceSlice> slices;
    std::vector<SoftRows> media;
    bool decoding = true;
    for (const PlannedRows& p : plan) {
      const Sequence& s = *p.sequence;
      slices.push_back({static_cast<int32_t>(ids.size()), p.num_rows, s.computed, s.full_pages, s.sliding_pages});
      decoding &= s.remaining() == 1;
      for (const SoftTokens& m : s.request().media) {
        const int32_t begin = std::max(m.first_position, s.computed), end = std::min(m.end(), s.computed + p.num_rows);
        if (begin < end) media.push_back({&m, static_cast<int32_t>(ids.size()) + begin - s.computed, end - begin, begin - m.first_position});
      }
      for (int32_t i = 0; i < p.num_rows; ++i) {
        const int32_t position = s.computed + i, ahead = position - static_cast<int32_t>(s.tokens.size());
        if (ahead >= -1 || wants_score(s, position)) logit_rows.push_back(static_cast<int32_t>(ids.size()));
        ids.push_back(ahead < 0 ? s.tokens[static_cast<size_t>(position)] : s.draft[static_cast<size_t>(ahead)]);
      }
    }
    const auto vocab = static_cast<size_t>(model.vocab_size());
    // Where the model can keep the logits, only what sampling needs of them comes over.
    const bool scores = std::any_of(plan.begin(), plan.end(), [](const PlannedRows& p) { return wants_score(*p.sequence, p.sequence->computed); });
    const bool kept = !scores && static_cast<int32_t>(logit_rows.size()) <= model.kept_logit_rows();
    const size_t host_rows = kept ? 1 : logit_rows.size();
    if (logits.size() < host_rows * vocab) logits.resize(host_rows * vocab);
    try {
      model.forward({ids, slices, logit_rows, media}, kept ? nullptr : logits.data());
      say();
      if (kept) rank_kept(plan);
    } catch (const std::exception& error) {
      log_error("a forward step failed: {}", error.what());
      const auto* known = dynamic_cast<const Error*>(&error);
      const bool no_memory = (known && known->code == ErrorCode::out_of_memory) || dynamic_cast<const std::bad_alloc*>(&error);
      num_failed_steps = no_memory ? 0 : num_failed_steps + 1;
      if (model.is_lost() || num_failed_steps >= kMaxFailedSteps) {
        give_up(error.what());
        return false;
      }
      for (const PlannedRows& p : plan) end_with_error(*p.sequence, Error(ErrorCode::internal, "the model failed to compute this step"));
      say();
      return true;
    }
    num_failed_steps = 0;
    ++counts.steps;
    fill_usage(counts);
    log.step(plan, counts, controller_is_on() ? controller.current() : -1);
    going.clear();
    size_t row = 0;
    for (const PlannedRows& p : plan) {
      Sequence& s = *p.sequence;
      for (int32_t i = 0; i < p.num_rows; ++i) {
        const int32_t position = s.computed + i;
        if (!wants_score(s, position)) continue;
        score_prompt(s, position, std::span(logits).subspan(row++ * vocab, vocab));
      }
      const int32_t rows = p.num_rows - static_cast<int32_t>(s.draft.size());
      const bool is_last = s.computed + rows == static_cast<int32_t>(s.tokens.size());
      const size_t first = row;
      if (is_last) row += 1 + s.draft.size();
      scheduler.advance(s, rows);
      if (is_last) choose_rows(s, first, kept);
    }
    if (controller_is_on()) {
      if (decoding) controller.observe_step(static_cast<int32_t>(ids.size()), monotonic_seconds() - began);
      draft();
    }
    return true;
  }

  bool controller_is_on() const { return options.drafter && options.speculation.max_drafts > 0; }

  // The row of a sequence's newest token, and one more for each draft that turns out to be what would have been chosen without it: as if one at a time.
  void choose_rows(Sequence& s, size_t row, bool kept) {
    const std::vector<int32_t> draft = std::exchange(s.draft, {});
    Round round{.draft = draft, .forced = -1, .done = {.drafted = static_cast<int16_t>(draft.size()), .accepted = 0}};
    if (options.speculation.forced_acceptance_length > 0 && !draft.empty()) {
      forced += options.speculation.forced_acceptance_length - 1;
      round.forced = std::min(static_cast<int32_t>(forced), static_cast<int32_t>(draft.size()));
      forced -= round.forced;
    }
    if (draft.empty() && controller_is_on()) ++counts.speculation.plain_steps;
    while (true) {
      const auto accepted_before = round.done.accepted;
      if (!(kept ? choose_kept(s, row, round) : choose(s, std::span(logits).subspan(row * static_cast<size_t>(model.vocab_size()), static_cast<size_t>(model.vocab_size())), round))) return;
      if (round.done.accepted == accepted_before) break;
      scheduler.advance(s, 1);
      ++row;
    }
    going.push_back({&s, static_cast<int32_t>(row)});
  }

  void finish_round(Sequence& s, DraftRound round) {
    if (round.drafted == 0) return;
    counts.speculation.add(round);
    log.count_round(round);
    controller.observe(round, s.draft_rate);
  }

  // Guesses for the sequences that go on, as many as the controller finds worth their time and as can still be emitted.
  void draft() {
    std::vector<OwnRate> rates;
    for (const Going& g : going) rates.push_back(g.sequence->draft_rate);
    int32_t drafts = controller.choose(rates);
    // A step with more rows than the model keeps logits of would bring them all to the host.
    if (const int32_t kept = model.kept_logit_rows(); kept > 0 && !going.empty()) drafts = std::min(drafts, std::max(kept / static_cast<int32_t>(going.size()) - 1, 0));
    counts.num_drafts = drafts;
    std::vector<DraftRow> rows;
    std::vector<std::pair<Sequence*, int32_t>> wanted;
    int32_t most = 0;
    for (const Going& g : going) {
      const Sequence& s = *g.sequence;
      const int32_t left = std::min(s.request().max_tokens - s.num_output(), scheduler.max_sequence_tokens() - static_cast<int32_t>(s.tokens.size()));
      const int32_t useful = std::min(drafts, left - 1);
      if (useful <= 0) continue;
      wanted.emplace_back(g.sequence, useful);
      rows.push_back({.token = s.tokens.back(), .logit_row = g.logit_row, .num_computed = s.computed, .full_pages = s.full_pages, .sliding_pages = s.sliding_pages});
      most = std::max(most, useful);
    }
    if (rows.empty()) return;
    std::vector<int32_t> ids(rows.size() * static_cast<size_t>(most));
    const double began = monotonic_seconds();
    try {
      options.drafter->draft(rows, most, ids.data());
    } catch (const std::exception& error) {
      log_error("a draft failed, speculation is off from here on: {}", error.what());
      options.drafter = nullptr;
      return;
    }
    controller.observe_drafting(static_cast<int32_t>(rows.size()), most, monotonic_seconds() - began);
    for (size_t i = 0; i < wanted.size(); ++i) {
      const auto begin = ids.begin() + static_cast<int64_t>(i) * most;
      wanted[i].first->draft.assign(begin, begin + wanted[i].second);
    }
  }

  // Nothing could be planned though something waits: only a prompt that does not fit the pools.
  void refuse_what_cannot_run() {
    if (scheduler.num_running() > 0) return;
    for (Sequence* s : scheduler.all()) {
      end_with_error(*s, Error(ErrorCode::out_of_memory, "the prompt does not fit the KV cache; start the server with a larger --max-total-tokens"));
      return;
    }
  }

  void end_with_error(Sequence& s, Error error) {
    if (!s.forked && s.choice == 0) s.state->unfinished_choices = 1;
    end(s, {.choice = s.choice, .id = -1, .logprob = 0, .top = {}, .finish = FinishReason::abort, .error = std::move(error), .cached_tokens = s.cached_tokens},
        /*keep_prefix=*/false);
  }

  // The logits at `position` give the logprob of the prompt's next token.
  static bool wants_score(const Sequence& s, int32_t position) {
    return s.request().prompt_logprobs && s.choice == 0 && position + 1 < s.num_prompt() && position >= s.prompt_scored;
  }

  void score_prompt(Sequence& s, int32_t position, std::span<const float> row) {
    Sampled scored = sampler.score(row, s.tokens[static_cast<size_t>(position) + 1], std::max(0, s.request().top_logprobs));
    s.prompt_scores.push_back({.choice = 0, .id = scored.id, .logprob = scored.logprob, .top = std::move(scored.top), .finish = FinishReason::none, .error = {}, .cached_tokens = 0});
    s.prompt_scored = position + 1;
    if (s.prompt_scored + 1 == s.num_prompt() && !s.state->silent && s.request().on_prompt_logprobs) s.request().on_prompt_logprobs(std::move(s.prompt_scores));
  }

  // A verify round: what was guessed and how much of it is accepted so far.
  struct Round {
    std::span<const int32_t> draft;
    int32_t forced;  // drafts to accept whatever the model says; -1: the model decides
    DraftRound done;
  };

  GrammarMatcher* matcher_of(Sequence& s) const {
    const Request& r = s.request();
    if (r.grammar && !s.matcher) s.matcher = std::make_unique<GrammarMatcher>(r.grammar, r.grammar_stop_ids);
    return s.matcher && !s.matcher->ended() ? s.matcher.get() : nullptr;
  }

  bool grammar_takes(Sequence& s, int32_t id) const {
    GrammarMatcher* matcher = matcher_of(s);
    const bool takes = !matcher || matcher->accept(id);
    if (matcher && takes) matcher->rollback(1);
    return takes;
  }

  // For the row after `ahead` drafts, which `output` counts and `thought` has seen. `allowed`: the grammar's mask, empty without one.
  LogitEdits edits_of(const Sequence& s, const OutputCounts& output, const ThoughtState& thought, int32_t ahead, std::span<const uint32_t> allowed) const {
    const Request& r = s.request();
    // A grammar that leaves nothing but the end beats min_tokens.
    const bool too_early = s.num_output() + ahead < r.min_tokens && (allowed.empty() || allows_more_than(allowed, r.stop_ids));
    return {.params = &r.sampling, .output = &output, .masked = too_early ? std::span<const int32_t>(r.stop_ids) : std::span<const int32_t>(),
            .suppressed = thought.is_used_up(r.thinking) ? std::span<const int32_t>(s.state->suppressed_after_thought) : std::span<const int32_t>(options.suppress_tokens),
            .allowed = allowed.empty() ? nullptr : allowed.data()};
  }

  // Asks the model for the candidates of all rows at once.
  void rank_kept(const std::vector<PlannedRows>& plan) {
    edits.clear();
    temperatures.clear();
    masked_rows.clear();
    masks.clear();
    const auto words = static_cast<size_t>(mask_words(model.vocab_size()));
    int32_t count = 1;
    for (const PlannedRows& p : plan) {
      Sequence& s = *p.sequence;
      if (s.computed + p.num_rows < static_cast<int32_t>(s.tokens.size())) continue;
      const Request& r = s.request();
      const int32_t wanted = candidates_wanted(r.sampling, r.top_logprobs);
      count = std::max(count, wanted);
      // Counts with the drafts in them, where anything asks for counts.
      OutputCounts with_drafts;
      const bool recount = !s.draft.empty() && counts_matter(r.sampling);
      ThoughtState thought = s.thought;
      if (recount) with_drafts = s.output;
      // The matcher goes along the drafts, and back. Rows behind a draft that the grammar forbids are never looked at.
      GrammarMatcher* matcher = wanted > 0 ? matcher_of(s) : nullptr;
      int32_t followed = 0;
      for (size_t j = 0; j <= s.draft.size(); ++j) {
        const auto row = static_cast<int32_t>(temperatures.size());
        if (j > 0) thought.push(r.thinking, s.draft[j - 1]);
        if (j > 0 && recount) ++with_drafts[s.draft[j - 1]];
        std::span<const uint32_t> allowed;
        if (matcher && followed == static_cast<int32_t>(j) && !matcher->ended()) {
          masks.resize(masks.size() + words);
          const auto mask = std::span(masks).last(words);
          matcher->allowed(mask);
          masked_rows.push_back(row);
          allowed = mask;
          followed += j < s.draft.size() && matcher->accept(s.draft[j]);
        }
        // A row that is read whole is edited on the host.
        if (wanted > 0) append_edits(edits_of(s, recount ? with_drafts : s.output, thought, static_cast<int32_t>(j), allowed), row, model.vocab_size(), edits);
        temperatures.push_back(r.sampling.temperature < 1e-6f ? 1.0f : r.sampling.temperature);
      }
      if (matcher) matcher->rollback(followed);
    }
    if (temperatures.empty()) return;
    ranked.resize(temperatures.size() * kMaxCandidates);
    summaries.resize(temperatures.size());
    num_ranked = std::min(count, model.vocab_size());
    model.candidates(edits, {masked_rows, masks}, temperatures, num_ranked, ranked.data(), summaries.data());
  }

  // These return whether the sequence goes on.
  bool choose_kept(Sequence& s, size_t row, Round& round) {
    const Request& r = s.request();
    if (candidates_wanted(r.sampling, r.top_logprobs) == 0) {
      model.read_logits(static_cast<int32_t>(row), logits.data());
      return choose(s, std::span(logits).first(static_cast<size_t>(model.vocab_size())), round);
    }
    return accept(s, sampler.sample(std::span<const Candidate>(ranked).subspan(row * kMaxCandidates, static_cast<size_t>(num_ranked)), summaries[row], r.sampling, s.choice, s.num_output(), r.top_logprobs),
                  round);
  }

  bool choose(Sequence& s, std::span<float> row, Round& round) {
    const Request& r = s.request();
    std::span<const uint32_t> allowed;
    if (GrammarMatcher* matcher = matcher_of(s)) {
      masks.resize(static_cast<size_t>(mask_words(model.vocab_size())));
      matcher->allowed(masks);
      allowed = masks;
    }
    edit_logits(row, edits_of(s, s.output, s.thought, 0, allowed));
    return accept(s, sampler.sample(row, r.sampling, s.choice, s.num_output(), r.top_logprobs), round);
  }

  // A token that is certain: what a mask of it alone would give.
  static Sampled forced_token(int32_t id, int32_t top_logprobs) {
    Sampled out{.id = id, .logprob = 0.0f, .top = {}};
    if (top_logprobs > 0) out.top.push_back({id, 0.0f});
    return out;
  }

  static bool is_in_loop(Sequence& s) {
    if (!s.guard) s.guard = std::make_unique<RepetitionGuard>();
    const int32_t period = s.guard->push(std::span(s.tokens).subspan(static_cast<size_t>(s.num_prompt())));
    if (period > 0) log_info("request {}: the reply repeats the same {} tokens without end and is stopped after {}", s.request().id, period, s.num_output());
    return period > 0;
  }

  bool accept(Sequence& s, std::optional<Sampled> sampled, Round& round) {
    const Request& r = s.request();
    if (!sampled) {
      end_with_error(s, Error(ErrorCode::internal, "the model gave no possible next token"));
      return false;
    }
    if (s.thought.must_close(r.thinking) && grammar_takes(s, r.thinking.close_id)) *sampled = forced_token(r.thinking.close_id, r.top_logprobs);
    bool take = false;
    if (const auto next = static_cast<size_t>(round.done.accepted); next < round.draft.size()) {
      take = round.forced < 0 ? sampled->id == round.draft[next] : static_cast<int32_t>(next) < round.forced;
      if (take) sampled->id = round.draft[next];
      round.done.accepted = static_cast<int16_t>(round.done.accepted + take);
    }
    if (s.num_output() == 0 && s.choice == 0) counts.cached_tokens += s.cached_tokens;
    ++counts.generated_tokens;
    counts.last_token_seconds = monotonic_seconds();
    log.count_token();
    if (GrammarMatcher* matcher = matcher_of(s); matcher && !matcher->accept(sampled->id) && round.forced < 0) {  // a forced acceptance takes what comes
      end_with_error(s, Error(ErrorCode::internal, "the grammar refused a token that it had allowed"));
      return false;
    }
    s.tokens.push_back(sampled->id);
    ++s.output[sampled->id];
    s.thought.push(r.thinking, sampled->id);
    const bool loops = r.stops_at_loops && is_in_loop(s);
    const bool ended = s.matcher && s.matcher->ended();  // nothing could follow, whatever ignore_eos says
    const bool stop = ended || (!r.ignore_eos && std::find(r.stop_ids.begin(), r.stop_ids.end(), sampled->id) != r.stop_ids.end());
    const bool full = s.num_output() >= r.max_tokens || static_cast<int32_t>(s.tokens.size()) >= scheduler.max_sequence_tokens();
    TokenEvent event{.choice = s.choice, .id = sampled->id, .logprob = sampled->logprob, .top = std::move(sampled->top),
                     .finish = stop ? FinishReason::stop_token : loops ? FinishReason::repetition : full ? FinishReason::length : FinishReason::none, .error = {},
                     .cached_tokens = s.cached_tokens, .queue_seconds = s.num_output() == 1 ? static_cast<float>(s.state->admitted - s.state->arrived) : 0.0f};
    if (!take || event.finish != FinishReason::none) {
      finish_round(s, round.done);
      event.round = round.done;
    }
    if (event.finish == FinishReason::none) {
      emit(s, std::move(event));
      return true;
    }
    end(s, std::move(event), /*keep_prefix=*/true);
    return false;
  }

  void fill_usage(EngineStats& stats) const {
    stats.running = scheduler.num_running();
    stats.queued = scheduler.num_waiting();
    stats.retracted = scheduler.num_retracted();
    stats.full_pages_total = scheduler.full_pool().total();
    stats.sliding_pages_total = scheduler.sliding_pool().total();
    stats.full_pages_used = stats.full_pages_total - scheduler.full_pool().num_free();
    stats.sliding_pages_used = stats.sliding_pages_total - scheduler.sliding_pool().num_free();
    stats.full_pages_cached = scheduler.full_pool().num_idle();
    stats.sliding_pages_cached = scheduler.sliding_pool().num_idle();
  }

  void publish() {
    fill_usage(counts);
    counts.last_progress_seconds = monotonic_seconds();
    counts.busy = scheduler.num_running() + scheduler.num_waiting() > 0;
    const std::lock_guard lock(mutex);
    num_queued = scheduler.num_waiting();
    published = counts;
  }
};

Engine::Engine(ForwardModel& model, EngineOptions options) : impl_(std::make_unique<Impl>(model, std::move(options))) {}
Engine::~Engine() = default;

Result<uint64_t> Engine::submit(std::unique_ptr<Request> request) {
  NB_ASSERT(!request->prompt.empty() && request->max_tokens > 0 && request->num_choices > 0, "a request wants a prompt, max_tokens and num_choices");
  const int32_t most = impl_->scheduler.max_sequence_tokens();
  if (static_cast<int64_t>(request->prompt.size()) + 1 > most) {
    return fail(ErrorCode::invalid_argument, "the prompt has {} tokens, the KV cache holds sequences of at most {}; start the server with a larger --max-total-tokens",
                request->prompt.size(), most);
  }
  for (const SoftTokens& m : request->media) {
    if (m.is_picture() ? !impl_->model.takes_images() : !impl_->model.takes_audio()) {
      return fail(ErrorCode::invalid_argument, "this model takes no {} here", m.is_picture() ? "images" : "audio");
    }
    if (m.is_picture() && m.count > impl_->scheduler.max_picture_tokens()) {
      return fail(ErrorCode::invalid_argument, "a picture of {} soft tokens does not fit one step of at most {}; ask for fewer soft tokens, or start the server with a larger "
                                               "--chunked-prefill-size or --max-total-tokens", m.count, impl_->scheduler.max_picture_tokens());
    }
  }
  uint64_t handle = 0;
  {
    const std::lock_guard lock(impl_->mutex);
    if (impl_->failed) return fail(ErrorCode::unavailable, "the engine has failed; the server ends");
    if (impl_->refusing) return fail(ErrorCode::unavailable, "the server is shutting down");
    if (impl_->num_queued >= impl_->options.max_queued_requests) {
      return fail(ErrorCode::unavailable, "the queue is full ({} requests wait); try again later", impl_->num_queued);
    }
    handle = impl_->last_handle + 1;
    if (!impl_->live.emplace(request->id, handle).second) return fail_param("rid", ErrorCode::invalid_argument, "request id {} is in use", request->id);
    impl_->last_handle = handle;
    ++impl_->num_queued;
    impl_->arrivals.push_back({handle, monotonic_seconds(), std::move(request)});
  }
  impl_->wake.notify_one();
  return handle;
}

void Engine::cancel(uint64_t handle, bool silent) {
  if (handle == 0) return;
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->cancels.push_back({handle, silent});
  }
  impl_->wake.notify_one();
}

void Engine::cancel(const std::string& request_id) {
  {
    const std::lock_guard lock(impl_->mutex);
    const auto found = impl_->live.find(request_id);
    if (found == impl_->live.end()) return;
    impl_->cancels.push_back({found->second, false});
  }
  impl_->wake.notify_one();
}

void Engine::cancel_all() {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->cancels.push_back({0, false});
  }
  impl_->wake.notify_one();
}

bool Engine::flush_cache() {
  std::unique_lock lock(impl_->mutex);
  if (impl_->busy || impl_->failed) return false;
  impl_->flush_wanted = true;
  impl_->flush_done = false;
  impl_->wake.notify_one();
  const bool answered = impl_->idle.wait_for(lock, std::chrono::seconds(10), [&] { return !impl_->flush_wanted; });
  return answered && impl_->flush_done;
}

bool Engine::drain(double timeout_seconds) {
  std::unique_lock lock(impl_->mutex);
  impl_->refusing = true;
  return impl_->idle.wait_for(lock, std::chrono::duration<double>(timeout_seconds), [&] { return !impl_->busy && impl_->arrivals.empty(); });
}

EngineStats Engine::stats() const {
  const std::lock_guard lock(impl_->mutex);
  EngineStats stats = impl_->published;
  stats.failed = impl_->failed;
  stats.queued = std::max(stats.queued, impl_->num_queued);
  return stats;
}
}  // namespace nibble
