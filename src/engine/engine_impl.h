// The engine from inside. engine.cpp has its thread's loop and what other threads call, engine_step.cpp a step from plan to events, engine_choice.cpp how a step's rows
// become tokens.
#pragma once

#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "engine/engine.h"
#include "engine/engine_log.h"
#include "engine/scheduler.h"

namespace nibble {
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

  Impl(ForwardModel& m, EngineOptions o);
  ~Impl();

  // ---- engine.cpp ----

  void loop();
  // Nothing can be computed any more: all that was asked for ends with an error, all that will be is refused.
  void give_up(const std::string& why);
  void apply(const Cancel& cancel);
  void fill_usage(EngineStats& stats) const;
  void publish();

  // ---- engine_step.cpp ----

  // False: it was the last one.
  bool step();
  void emit(Sequence& sequence, TokenEvent&& event);
  void say();
  // The choice's last event; then it is gone.
  void end(Sequence& sequence, TokenEvent&& event, bool keep_prefix);
  void end_with_error(Sequence& s, Error error);
  // Nothing could be planned though something waits: only a prompt that does not fit the pools.
  void refuse_what_cannot_run();
  // The logits at `position` give the logprob of the prompt's next token.
  static bool wants_score(const Sequence& s, int32_t position);
  void score_prompt(Sequence& s, int32_t position, std::span<const float> row);
  bool controller_is_on() const { return options.drafter && options.speculation.max_drafts > 0; }
  // Guesses for the sequences that go on, as many as the controller finds worth their time and as can still be emitted.
  void draft();
  void finish_round(Sequence& s, DraftRound round);

  // ---- engine_choice.cpp ----

  // A verify round: what was guessed and how much of it is accepted so far.
  struct Round {
    std::span<const int32_t> draft;
    int32_t forced;  // drafts to accept whatever the model says; -1: the model decides
    DraftRound done;
  };
  // Asks the model for the candidates of all rows at once.
  void rank_kept(const std::vector<PlannedRows>& plan);
  // The row of a sequence's newest token, and one more for each draft that turns out to be what would have been chosen without it: as if one at a time.
  void choose_rows(Sequence& s, size_t row, bool kept);
  // These return whether the sequence goes on.
  bool choose_kept(Sequence& s, size_t row, Round& round);
  bool choose(Sequence& s, std::span<float> row, Round& round);
  bool accept(Sequence& s, std::optional<Sampled> sampled, Round& round);
  // For the row after `ahead` drafts, which `output` counts and `thought` has seen. `allowed`: the grammar's mask, empty without one.
  LogitEdits edits_of(const Sequence& s, const OutputCounts& output, const ThoughtState& thought, int32_t ahead, std::span<const uint32_t> allowed) const;
  GrammarMatcher* matcher_of(Sequence& s) const;
  bool grammar_takes(Sequence& s, int32_t id) const;
};
}  // namespace nibble
