#include "engine/scheduler.h"

#include <algorithm>

#include "base/clock.h"
#include "base/rng.h"

namespace nibble {
namespace {
// Rows whose prompt logprobs are wanted each need a row of logits: keep such chunks short.
constexpr int32_t kScoredChunk = 32;
}  // namespace

Scheduler::Scheduler(const KvGeometry& kv, const SchedulerOptions& options)
    : kv_(kv), options_(options), full_(kv.num_full_pages), sliding_(kv.num_sliding_pages), cache_(full_, sliding_, kv.page_tokens, kv.sliding_window) {
  options_.prefill_tokens = std::max(1, std::min({options_.prefill_tokens, options_.max_rows, sliding_room()}));
}

// A chunk and the window before it must fit the sliding pool at once; where the window itself does not, no sequence grows beyond the pool.
int32_t Scheduler::sliding_room() const {
  const int32_t pool = sliding_.total() * kv_.page_tokens, room = pool - kv_.page_tokens - kv_.sliding_window;
  return window_fits() ? std::max(room, kv_.page_tokens) : pool;
}

bool Scheduler::window_fits() const { return int64_t{sliding_.total()} * kv_.page_tokens >= int64_t{kv_.sliding_window} + 2 * kv_.page_tokens; }

int32_t Scheduler::max_sequence_tokens() const {
  // Sliding layers hold the window and one chunk, whatever the length; a pool too small for that limits the whole sequence.
  return (window_fits() ? full_.total() : std::min(full_.total(), sliding_.total())) * kv_.page_tokens;
}

int32_t Scheduler::max_picture_tokens() const { return std::min(options_.max_rows, sliding_room()); }

void Scheduler::add(std::shared_ptr<RequestState> state) {
  state->unfinished_choices = state->request->num_choices;
  auto sequence = std::make_unique<Sequence>();
  sequence->tokens = state->request->prompt;
  sequence->tokens.reserve(sequence->tokens.size() + 64);
  sequence->order = next_order_++;
  sequence->thought = ThoughtState::at_start(state->request->thinking);
  sequence->state = std::move(state);
  waiting_.push_back(std::move(sequence));
}

std::vector<Sequence*> Scheduler::find(uint64_t handle) {
  std::vector<Sequence*> found;
  for (SequenceList* list : {&running_, &waiting_}) {
    for (const SequencePtr& sequence : *list) {
      if (handle == 0 || sequence->state->handle == handle) found.push_back(sequence.get());
    }
  }
  return found;
}

bool Scheduler::ensure_pages(Sequence& sequence, int32_t num_tokens) {
  const auto wanted = static_cast<size_t>((num_tokens + kv_.page_tokens - 1) / kv_.page_tokens);
  while (sequence.full_pages.size() < wanted) {
    while (full_.num_free() == 0) {
      if (!cache_.evict_full()) return false;
    }
    while (sliding_.num_free() == 0) {
      if (!cache_.evict_sliding()) return false;
    }
    sequence.full_pages.push_back(*full_.allocate());
    sequence.sliding_pages.push_back(*sliding_.allocate());
  }
  return true;
}

// Takes pages from those that came later. False: this sequence itself had to go.
bool Scheduler::ensure_pages_or_preempt(Sequence& sequence, int32_t num_tokens) {
  while (!ensure_pages(sequence, num_tokens)) {
    const auto youngest = std::prev(running_.end());
    const bool self = youngest->get() == &sequence;
    preempt(youngest);
    if (self) return false;
  }
  return true;
}

void Scheduler::preempt(SequenceList::iterator victim) {
  release_pages(**victim, /*keep_prefix=*/true);
  (*victim)->computed = 0;
  (*victim)->draft.clear();
  ++num_retracted_;
  const auto place = std::find_if(waiting_.begin(), waiting_.end(), [&](const SequencePtr& other) { return other->order > (*victim)->order; });
  waiting_.splice(place, running_, victim);
}

void Scheduler::release_pages(Sequence& sequence, bool keep_prefix) {
  if (keep_prefix && options_.prefix_cache) {
    cache_.insert(sequence.tokens, sequence.computed, sequence.cache_key(), sequence.full_pages, sequence.sliding_pages, /*is_anchor=*/true);
  }
  for (const int32_t page : sequence.full_pages) full_.release(page);
  for (const int32_t page : sequence.sliding_pages) {
    if (page != PrefixCache::kNoPage) sliding_.release(page);
  }
  sequence.full_pages.clear();
  sequence.sliding_pages.clear();
}

void Scheduler::release_behind_window(Sequence& sequence) {
  const int32_t first_visible = std::max(0, sequence.computed - kv_.sliding_window + (options_.drafts ? 0 : 1)) / kv_.page_tokens;
  for (int32_t page = first_visible - 1; page >= 0; --page) {
    int32_t& held = sequence.sliding_pages[static_cast<size_t>(page)];
    if (held == PrefixCache::kNoPage) return;  // all before it are gone already
    sliding_.release(held);
    held = PrefixCache::kNoPage;
  }
}

// Rows of the next chunk, at most `prefill_left` but for a picture, never more than `rows_left`; 0: not in this step.
int32_t Scheduler::chunk_of(const Sequence& sequence, int32_t prefill_left, int32_t rows_left) const {
  const int32_t most = std::min(prefill_left, rows_left);
  const bool scored = sequence.request().prompt_logprobs && sequence.computed < sequence.num_prompt();
  const int32_t rows = std::min({sequence.remaining(), most, scored ? kScoredChunk : most});
  if (rows <= 0) return rows;
  // A picture's rows see each other: they are computed in one step, or in the first step that has room for all that is left of it.
  const int32_t end = sequence.computed + rows;
  for (const SoftTokens& m : sequence.request().media) {
    if (!m.is_picture() || m.first_position >= end || m.end() <= end) continue;
    if (m.first_position > sequence.computed) return m.first_position - sequence.computed;
    const int32_t whole = m.end() - sequence.computed;
    // One that is larger than the budget of a step may have a step of its own.
    return whole <= rows_left && prefill_left == options_.prefill_tokens ? whole : 0;
  }
  return rows;
}

// Drafts are worth free pages, not somebody else's.
void Scheduler::trim_draft(Sequence& sequence, int32_t most) {
  sequence.draft.resize(std::min(sequence.draft.size(), static_cast<size_t>(std::max(most, 0))));
  while (!sequence.draft.empty() && !ensure_pages(sequence, sequence.computed + 1 + static_cast<int32_t>(sequence.draft.size()))) sequence.draft.pop_back();
}

std::vector<PlannedRows> Scheduler::plan() {
  std::vector<PlannedRows> plan;
  int32_t rows_left = options_.max_rows, prefill_left = options_.prefill_tokens;
  // Decode rows first. Preemption takes from the end of the list, so nobody planned already can lose its pages to a later one.
  auto decoders_left = static_cast<int32_t>(std::count_if(running_.begin(), running_.end(), [](const SequencePtr& s) { return s->remaining() == 1; }));
  const auto plan_running = [&](bool decoding) {
    for (auto at = running_.begin(); at != running_.end() && rows_left > 0;) {
      Sequence& sequence = **at;
      ++at;
      if ((sequence.remaining() == 1) != decoding) continue;
      if (decoding) trim_draft(sequence, rows_left - decoders_left--);
      const int32_t rows = decoding ? 1 + static_cast<int32_t>(sequence.draft.size()) : chunk_of(sequence, prefill_left, rows_left);
      if (rows <= 0) continue;
      const auto size_before = running_.size();
      const bool kept = ensure_pages_or_preempt(sequence, sequence.computed + rows);
      if (running_.size() != size_before) {
        // Victims may have been planned: they wait now.
        std::erase_if(plan, [&](const PlannedRows& p) {
          return std::none_of(running_.begin(), running_.end(), [&](const SequencePtr& s) { return s.get() == p.sequence; });
        });
        at = kept ? std::next(std::find_if(running_.begin(), running_.end(), [&](const SequencePtr& s) { return s.get() == &sequence; })) : running_.end();
      }
      if (!kept) return;
      plan.push_back({&sequence, rows});
      rows_left -= rows;
      if (!decoding) prefill_left -= rows;
    }
  };
  plan_running(true);
  plan_running(false);
  order_waiting();
  while (prefill_left > 0 && rows_left > 0 && num_running() < options_.max_running && !waiting_.empty()) {
    if (!admit_next(plan, prefill_left, rows_left)) break;
  }
  return plan;
}

void Scheduler::order_waiting() {
  if (waiting_.size() < 2 || options_.policy == "fcfs") return;
  if (options_.policy == "lof") {
    waiting_.sort([](const SequencePtr& a, const SequencePtr& b) { return a->request().max_tokens > b->request().max_tokens; });
  } else if (options_.policy == "random") {
    waiting_.sort([](const SequencePtr& a, const SequencePtr& b) { return philox4x32({static_cast<uint32_t>(a->order)}, 1) < philox4x32({static_cast<uint32_t>(b->order)}, 1); });
  } else if (options_.policy == "lpm") {
    std::unordered_map<const Sequence*, int32_t> matched;
    for (const SequencePtr& s : waiting_) matched[s.get()] = cache_.match_length(s->tokens, s->cache_key());
    waiting_.sort([&](const SequencePtr& a, const SequencePtr& b) { return matched[a.get()] > matched[b.get()]; });
  }
}

bool Scheduler::admit_next(std::vector<PlannedRows>& plan, int32_t& prefill_left, int32_t& rows_left) {
  Sequence& sequence = *waiting_.front();
  if (options_.prefix_cache && !sequence.request().prompt_logprobs) {
    PrefixCache::Match match = cache_.match(sequence.tokens, sequence.cache_key());
    sequence.computed = match.tokens;
    sequence.full_pages = std::move(match.full_pages);
    sequence.sliding_pages = std::move(match.sliding_pages);
  }
  // Do not start what would be thrown out half way: all pages of the tokens at hand must be free, or cached and used by nobody else. The prefix just matched is held and does not count.
  const auto missing = static_cast<int32_t>((sequence.tokens.size() + 1 + static_cast<size_t>(kv_.page_tokens) - 1) / static_cast<size_t>(kv_.page_tokens) - sequence.full_pages.size());
  const int32_t rows = chunk_of(sequence, prefill_left, rows_left);
  const bool room = running_.empty() || missing <= full_.num_free() + full_.num_idle();
  if (!room || rows <= 0 || !ensure_pages(sequence, sequence.computed + rows)) {
    release_pages(sequence, /*keep_prefix=*/false);
    sequence.computed = 0;
    return false;
  }
  if (sequence.num_output() == 0) sequence.cached_tokens = sequence.computed;
  if (sequence.state->admitted == 0) sequence.state->admitted = monotonic_seconds();
  // Kept in order of arrival, so that preemption knows who came last.
  const auto place = std::find_if(running_.begin(), running_.end(), [&](const SequencePtr& other) { return other->order > sequence.order; });
  running_.splice(place, waiting_, waiting_.begin());
  plan.push_back({&sequence, rows});
  prefill_left -= rows;
  rows_left -= rows;
  return true;
}

void Scheduler::advance(Sequence& sequence, int32_t num_rows) {
  const bool was_in_prompt = sequence.computed < sequence.num_prompt();
  sequence.computed += num_rows;
  if (was_in_prompt && sequence.computed >= sequence.num_prompt()) {
    if (options_.prefix_cache) {
      cache_.insert(sequence.tokens, sequence.num_prompt(), sequence.cache_key(), sequence.full_pages, sequence.sliding_pages, /*is_anchor=*/true);
    }
    if (!sequence.forked && sequence.choice == 0 && sequence.request().num_choices > 1) fork_choices(sequence);
  } else if (was_in_prompt && options_.prefix_cache) {
    // Before the window moves on: the cache may keep the pages that this sequence is about to let go.
    cache_.insert(sequence.tokens, sequence.computed, sequence.cache_key(), sequence.full_pages, sequence.sliding_pages, /*is_anchor=*/false);
  }
  release_behind_window(sequence);
}

// The other choices share all whole pages of the prompt and compute its last few tokens again, into a page of their own.
void Scheduler::fork_choices(Sequence& first) {
  first.forked = true;
  const int32_t shared = (first.num_prompt() - 1) / kv_.page_tokens;
  auto place = std::find_if(running_.begin(), running_.end(), [&](const SequencePtr& s) { return s.get() == &first; });
  for (int32_t choice = 1; choice < first.request().num_choices; ++choice) {
    auto sequence = std::make_unique<Sequence>();
    sequence->state = first.state;
    sequence->choice = choice;
    sequence->tokens = first.request().prompt;
    sequence->computed = shared * kv_.page_tokens;
    sequence->cached_tokens = first.cached_tokens;
    sequence->forked = true;
    sequence->order = first.order;
    sequence->thought = ThoughtState::at_start(first.request().thinking);
    for (int32_t page = 0; page < shared; ++page) {
      full_.retain(first.full_pages[static_cast<size_t>(page)]);
      sequence->full_pages.push_back(first.full_pages[static_cast<size_t>(page)]);
      const int32_t sliding_page = first.sliding_pages[static_cast<size_t>(page)];
      if (sliding_page != PrefixCache::kNoPage) sliding_.retain(sliding_page);
      sequence->sliding_pages.push_back(sliding_page);
    }
    place = running_.insert(std::next(place), std::move(sequence));
  }
}

void Scheduler::remove(Sequence& sequence, bool keep_prefix) {
  release_pages(sequence, keep_prefix);
  for (SequenceList* list : {&running_, &waiting_}) {
    const auto at = std::find_if(list->begin(), list->end(), [&](const SequencePtr& s) { return s.get() == &sequence; });
    if (at == list->end()) continue;
    list->erase(at);
    return;
  }
}

bool Scheduler::flush_cache() {
  if (!running_.empty() || !waiting_.empty()) return false;
  cache_.clear();
  return true;
}
}  // namespace nibble
