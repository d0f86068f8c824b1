// From the logits of a step to tokens: masks, thinking budgets, the check of drafts, the end of a reply.
#include "engine/engine_impl.h"

#include <algorithm>

#include "base/clock.h"
#include "base/log.h"

namespace nibble {
namespace {
// A token that is certain: what a mask of it alone would give.
Sampled forced_token(int32_t id, int32_t top_logprobs) {
  Sampled out{.id = id, .logprob = 0.0f, .top = {}};
  if (top_logprobs > 0) out.top.push_back({id, 0.0f});
  return out;
}

bool is_in_loop(Sequence& s) {
  if (!s.guard) s.guard = std::make_unique<RepetitionGuard>();
  const int32_t period = s.guard->push(std::span(s.tokens).subspan(static_cast<size_t>(s.num_prompt())));
  if (period > 0) log_info("request {}: the reply repeats the same {} tokens without end and is stopped after {}", s.request().id, period, s.num_output());
  return period > 0;
}
}  // namespace

void Engine::Impl::choose_rows(Sequence& s, size_t row, bool kept) {
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

GrammarMatcher* Engine::Impl::matcher_of(Sequence& s) const {
  const Request& r = s.request();
  if (r.grammar && !s.matcher) s.matcher = std::make_unique<GrammarMatcher>(r.grammar, r.grammar_stop_ids);
  return s.matcher && !s.matcher->ended() ? s.matcher.get() : nullptr;
}

bool Engine::Impl::grammar_takes(Sequence& s, int32_t id) const {
  GrammarMatcher* matcher = matcher_of(s);
  const bool takes = !matcher || matcher->accept(id);
  if (matcher && takes) matcher->rollback(1);
  return takes;
}

LogitEdits Engine::Impl::edits_of(const Sequence& s, const OutputCounts& output, const ThoughtState& thought, int32_t ahead, std::span<const uint32_t> allowed) const {
  const Request& r = s.request();
  // A grammar that leaves nothing but the end beats min_tokens.
  const bool too_early = s.num_output() + ahead < r.min_tokens && (allowed.empty() || allows_more_than(allowed, r.stop_ids));
  return {.params = &r.sampling, .output = &output, .masked = too_early ? std::span<const int32_t>(r.stop_ids) : std::span<const int32_t>(),
          .suppressed = thought.is_used_up(r.thinking) ? std::span<const int32_t>(s.state->suppressed_after_thought) : std::span<const int32_t>(options.suppress_tokens),
          .allowed = allowed.empty() ? nullptr : allowed.data()};
}

void Engine::Impl::rank_kept(const std::vector<PlannedRows>& plan) {
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

bool Engine::Impl::choose_kept(Sequence& s, size_t row, Round& round) {
  const Request& r = s.request();
  if (candidates_wanted(r.sampling, r.top_logprobs) == 0) {
    model.read_logits(static_cast<int32_t>(row), logits.data());
    return choose(s, std::span(logits).first(static_cast<size_t>(model.vocab_size())), round);
  }
  return accept(s, sampler.sample(std::span<const Candidate>(ranked).subspan(row * kMaxCandidates, static_cast<size_t>(num_ranked)), summaries[row], r.sampling, s.choice, s.num_output(), r.top_logprobs),
                round);
}

bool Engine::Impl::choose(Sequence& s, std::span<float> row, Round& round) {
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

bool Engine::Impl::accept(Sequence& s, std::optional<Sampled> sampled, Round& round) {
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
  if (s.matcher && s.matcher->is_too_slow()) {
    end_with_error(s, Error(ErrorCode::invalid_argument, "the grammar is too ambiguous: its tokens take so long that others wait; repeat less within what is repeated"));
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
}  // namespace nibble
