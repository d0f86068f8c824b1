// Who computes what in the next step, and in which pages.
//
// A sequence has tokens, and a number of them that are computed. What remains is its work: one row when it is decoding (and one for each draft that follows), more when its prompt (or, after a
// preemption, prompt and output so far) is still to be computed. A step takes one row of every decoding sequence first, then prefill chunks up to a budget.
// When pages run out, cached prefixes go first; then the sequence that came last gives its pages back and waits, to be computed again later with the same
// outcome. Not thread-safe: the engine's thread owns it.
#pragma once

#include <cstdint>
#include <deque>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "engine/grammar.h"
#include "engine/prefix_cache.h"
#include "engine/repetition_guard.h"
#include "engine/request.h"
#include "engine/sampler.h"
#include "model/step.h"

namespace nibble {
// One request; its choices share it.
struct RequestState {
  std::unique_ptr<Request> request;
  uint64_t handle = 0;
  double arrived = 0, admitted = 0;     // monotonic seconds; admitted: 0 until the first step
  int32_t unfinished_choices = 0;
  std::vector<int32_t> suppressed_after_thought;  // the engine's suppressed tokens and the opening of a thought
  bool silent = false;  // the sink wants to hear no more
};

struct Sequence {
  std::shared_ptr<RequestState> state;  // shared by the choices of a request
  int32_t choice = 0;
  std::vector<int32_t> tokens;          // prompt, then output
  int32_t computed = 0;                 // leading tokens whose K and V are in the pages
  int32_t cached_tokens = 0;            // of the prompt, taken from the prefix cache
  bool forked = false;                  // the other choices have been made
  int32_t prompt_scored = 0;            // prompt positions whose logprobs are known
  std::vector<TokenEvent> prompt_scores;
  OutputCounts output;
  ThoughtState thought;                 // after `tokens`
  std::unique_ptr<RepetitionGuard> guard;  // made when wanted
  std::vector<int32_t> draft;           // guesses that follow `tokens`, to be checked by the next step
  std::unique_ptr<GrammarMatcher> matcher;  // has accepted the output; made with the first token of a request that has a grammar
  OwnRate draft_rate;
  uint64_t order = 0;                   // of arrival
  std::vector<int32_t> full_pages, sliding_pages;

  const Request& request() const { return *state->request; }
  CacheKey cache_key() const { return {request().cache_salt, request().media}; }
  int32_t num_prompt() const { return static_cast<int32_t>(request().prompt.size()); }
  int32_t num_output() const { return static_cast<int32_t>(tokens.size()) - num_prompt(); }
  int32_t remaining() const { return static_cast<int32_t>(tokens.size()) - computed; }
};

struct SchedulerOptions {
  int32_t max_running = 256;
  int32_t prefill_tokens = 512;  // rows of prefill in one step
  int32_t max_rows = 512;        // of one step
  bool prefix_cache = true;
  std::string policy = "fcfs";
  bool drafts = false;           // sequences may carry drafts: sliding pages stay one position longer, for the next draft's query
};

struct PlannedRows {
  Sequence* sequence = nullptr;
  int32_t num_rows = 0;
};

class Scheduler {
 public:
  Scheduler(const KvGeometry& kv, const SchedulerOptions& options);

  void add(std::shared_ptr<RequestState> state);
  // Sequences and their rows for the next step; empty when there is nothing to do. Pages for the rows are in place.
  std::vector<PlannedRows> plan();
  // The rows of a planned sequence are computed: moves on, frees what no later row can see, shares a finished prompt with the other choices and the cache.
  void advance(Sequence& sequence, int32_t num_rows);
  // Takes a sequence out, running or waiting; its pages go back, its prefix to the cache if `keep_prefix`.
  void remove(Sequence& sequence, bool keep_prefix);
  // All sequences of a request, with this id or all when `id` is empty.
  std::vector<Sequence*> find(uint64_t handle);  // 0: all
  std::vector<Sequence*> all() { return find(0); }

  bool flush_cache();  // false when anything runs or waits
  int32_t num_running() const { return static_cast<int32_t>(running_.size()); }
  int32_t num_waiting() const { return static_cast<int32_t>(waiting_.size()); }
  int64_t num_retracted() const { return num_retracted_; }
  const PagePool& full_pool() const { return full_; }
  const PagePool& sliding_pool() const { return sliding_; }
  // The largest picture that can be computed in one step.
  int32_t max_picture_tokens() const;
  // The longest sequence that the pools can ever hold.
  int32_t max_sequence_tokens() const;

 private:
  bool window_fits() const;      // into the sliding pool, with a page on either side
  int32_t sliding_room() const;  // for a chunk beside the window
  using SequencePtr = std::unique_ptr<Sequence>;
  using SequenceList = std::list<SequencePtr>;

  bool ensure_pages(Sequence& sequence, int32_t num_tokens);
  bool ensure_pages_or_preempt(Sequence& sequence, int32_t num_tokens);
  void preempt(SequenceList::iterator victim);
  void release_pages(Sequence& sequence, bool keep_prefix);
  void release_behind_window(Sequence& sequence);
  void fork_choices(Sequence& first);
  bool admit_next(std::vector<PlannedRows>& plan, int32_t& prefill_left, int32_t& rows_left);
  void order_waiting();
  int32_t chunk_of(const Sequence& sequence, int32_t prefill_left, int32_t rows_left) const;
  void trim_draft(Sequence& sequence, int32_t most);

  KvGeometry kv_;
  SchedulerOptions options_;
  PagePool full_, sliding_;
  PrefixCache cache_;
  SequenceList running_, waiting_;  // in order of arrival
  uint64_t next_order_ = 0;
  int64_t num_retracted_ = 0;
};
}  // namespace nibble
