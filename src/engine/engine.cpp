#include "engine/engine.h"

#include <algorithm>

#include "base/clock.h"
#include "base/log.h"
#include "engine/engine_impl.h"

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
}  // namespace

Engine::Impl::Impl(ForwardModel& m, EngineOptions o) : model(m), options(std::move(o)), scheduler(m.kv_geometry(), scheduler_options(m, options)), controller(speculation_options(options)),
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

Engine::Impl::~Impl() {
  {
    const std::lock_guard lock(mutex);
    stopping = refusing = true;
  }
  wake.notify_all();
  thread.join();
}

void Engine::Impl::loop() {
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

void Engine::Impl::give_up(const std::string& why) {
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

void Engine::Impl::apply(const Cancel& cancel) {
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

void Engine::Impl::fill_usage(EngineStats& stats) const {
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

void Engine::Impl::publish() {
  fill_usage(counts);
  counts.last_progress_seconds = monotonic_seconds();
  counts.busy = scheduler.num_running() + scheduler.num_waiting() > 0;
  const std::lock_guard lock(mutex);
  num_queued = scheduler.num_waiting();
  published = counts;
}

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
