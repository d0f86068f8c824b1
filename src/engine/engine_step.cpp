// A step: from the plan through the model to events, and drafts for the next.
#include "engine/engine_impl.h"

#include <algorithm>

#include "base/clock.h"
#include "base/log.h"

namespace nibble {
namespace {
// Steps that fail one after the other, none for want of memory, until nothing better is expected of the next.
constexpr int kMaxFailedSteps = 5;
}  // namespace

void Engine::Impl::emit(Sequence& sequence, TokenEvent&& event) {
  unsaid.push_back({sequence.state, std::move(event)});
  if (model.kept_logit_rows() == 0) say();
}

void Engine::Impl::say() {
  for (Said& s : unsaid) {
    if (!s.state->silent && s.state->request->on_token) s.state->request->on_token(std::move(s.event));
  }
  unsaid.clear();
}

void Engine::Impl::end(Sequence& sequence, TokenEvent&& event, bool keep_prefix) {
  const std::shared_ptr<RequestState> state = sequence.state;
  const bool last = --state->unfinished_choices == 0;
  if (last) {  // before the event, so that whoever hears it may use the id again
    const std::lock_guard lock(mutex);
    live.erase(state->request->id);
  }
  emit(sequence, std::move(event));
  scheduler.remove(sequence, keep_prefix);
}

bool Engine::Impl::step() {
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

void Engine::Impl::finish_round(Sequence& s, DraftRound round) {
  if (round.drafted == 0) return;
  counts.speculation.add(round);
  log.count_round(round);
  controller.observe(round, s.draft_rate);
}

void Engine::Impl::draft() {
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

void Engine::Impl::refuse_what_cannot_run() {
  if (scheduler.num_running() > 0) return;
  for (Sequence* s : scheduler.all()) {
    end_with_error(*s, Error(ErrorCode::out_of_memory, "the prompt does not fit the KV cache; start the server with a larger --max-total-tokens"));
    return;
  }
}

void Engine::Impl::end_with_error(Sequence& s, Error error) {
  if (!s.forked && s.choice == 0) s.state->unfinished_choices = 1;
  end(s, {.choice = s.choice, .id = -1, .logprob = 0, .top = {}, .finish = FinishReason::abort, .error = std::move(error), .cached_tokens = s.cached_tokens},
      /*keep_prefix=*/false);
}

bool Engine::Impl::wants_score(const Sequence& s, int32_t position) {
  return s.request().prompt_logprobs && s.choice == 0 && position + 1 < s.num_prompt() && position >= s.prompt_scored;
}

void Engine::Impl::score_prompt(Sequence& s, int32_t position, std::span<const float> row) {
  Sampled scored = sampler.score(row, s.tokens[static_cast<size_t>(position) + 1], std::max(0, s.request().top_logprobs));
  s.prompt_scores.push_back({.choice = 0, .id = scored.id, .logprob = scored.logprob, .top = std::move(scored.top), .finish = FinishReason::none, .error = {}, .cached_tokens = 0});
  s.prompt_scored = position + 1;
  if (s.prompt_scored + 1 == s.num_prompt() && !s.state->silent && s.request().on_prompt_logprobs) s.request().on_prompt_logprobs(std::move(s.prompt_scores));
}
}  // namespace nibble
