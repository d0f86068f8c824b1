// The engine: one thread that owns the scheduler, the KV pages, the prefix cache and the model, and turns requests into events.
//
// Everything else talks to it through submit() and cancel(), which are safe from any thread and never wait for a step.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "engine/request.h"
#include "model/step.h"

namespace nibble {
struct EngineOptions {
  int32_t max_running_requests = 256;
  int32_t max_queued_requests = 4096;
  int32_t chunked_prefill_tokens = 512;    // rows of prefill in one step at most; decode rows come on top, up to the model's max_rows
  bool prefix_cache = true;
  std::string schedule_policy = "fcfs";    // fcfs, lpm (longest cached prefix first), lof, random
  std::vector<int32_t> suppress_tokens;    // never sampled
  DraftModel* drafter = nullptr;           // guesses tokens ahead, for the same model; outlives the engine
  SpeculationOptions speculation;
  int32_t decode_log_interval = 40;        // steps between two log lines; 0: none
  // No step can be computed any more: the device is lost, or step after step fails. Called once, on the engine's thread, before all that runs or waits ends with an error.
  std::function<void(const std::string& why)> on_failure;
};

// A consistent snapshot, cheap to take from any thread.
struct EngineStats {
  int64_t prompt_tokens = 0, cached_tokens = 0, generated_tokens = 0;
  int64_t requests = 0, aborted = 0, retracted = 0, steps = 0, structured = 0;  // structured: requests with a grammar
  int32_t running = 0, queued = 0, max_running = 0;
  int32_t full_pages_used = 0, full_pages_total = 0, sliding_pages_used = 0, sliding_pages_total = 0;
  int32_t full_pages_cached = 0, sliding_pages_cached = 0;  // held by the prefix cache alone, freed on demand
  DraftCounts speculation;
  int32_t max_drafts = 0, num_drafts = 0;  // most drafts a round; those of the present round
  double generation_throughput = 0;        // tokens/s over the last log interval
  bool busy = false;                       // a step is due or under way
  bool failed = false;                     // for good
  double last_token_seconds = 0;           // monotonic time of the newest token
  double last_progress_seconds = 0;        // monotonic time of the last finished step, or of the last look at an empty queue
};

class Engine {
 public:
  Engine(ForwardModel& model, EngineOptions options);
  ~Engine();  // cancels what runs, joins the thread
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // The handle names this request for ever, its id only as long as it lives.
  // unavailable: the queue is full or the engine is stopping. invalid_argument: the prompt can never fit the pools, or the id is in use.
  Result<uint64_t> submit(std::unique_ptr<Request> request);
  // The request ends with FinishReason::abort within one step; its sink hears nothing after cancel() if `silent`. What has ended is left alone.
  void cancel(uint64_t handle, bool silent = false);
  void cancel(const std::string& request_id);
  void cancel_all();
  // Drops the prefix cache; false when requests run or wait.
  bool flush_cache();
  // Lets running requests finish, refuses new ones; true when all were done in time.
  bool drain(double timeout_seconds);
  EngineStats stats() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};
}  // namespace nibble
