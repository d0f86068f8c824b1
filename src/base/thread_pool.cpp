#include "base/thread_pool.h"

#include <algorithm>

#include "base/assert.h"

namespace nibble {
namespace {
// About 50 us: longer than the gaps between the loops of one forward step, short enough not to be seen in top.
constexpr int kSpins = 2000;

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}
}  // namespace

ThreadPool::ThreadPool(int num_threads) {
  if (num_threads <= 0) num_threads = std::max(1u, std::thread::hardware_concurrency());
  for (int i = 1; i < num_threads; ++i) workers_.emplace_back([this] { worker(); });
}

ThreadPool::~ThreadPool() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : workers_) thread.join();
}

void ThreadPool::run_erased(int64_t num_parts, bool in_runs, PartFunction function, const void* context) {
  if (num_parts <= 0) return;
  if (workers_.empty() || num_parts == 1) {
    for (int64_t part = 0; part < num_parts; ++part) function(context, part);
    return;
  }
  NB_ASSERT(num_parts < (int64_t{1} << 31), "too many parts");
  // Read only by a thread that has taken a part, and all parts of the last loop are done.
  function_ = function;
  context_ = context;
  num_parts_ = num_parts;
  run_divisor_.store(in_runs ? 2 * static_cast<uint32_t>(size()) : 0, std::memory_order_relaxed);
  done_.store(0, std::memory_order_relaxed);
  const uint32_t generation = generation_.load(std::memory_order_relaxed) + 1;
  remaining_.store(uint64_t{generation} << 32 | static_cast<uint64_t>(num_parts), std::memory_order_release);
  generation_.store(generation, std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) > 0) {
    { const std::lock_guard lock(mutex_); }  // a thread between its last look and its sleep holds the mutex
    wake_.notify_all();
  }
  work_on(generation);
  while (done_.load(std::memory_order_acquire) < num_parts) relax();
}

void ThreadPool::work_on(uint32_t generation) {
  uint64_t remaining = remaining_.load(std::memory_order_acquire);
  while (static_cast<uint32_t>(remaining >> 32) == generation && static_cast<uint32_t>(remaining) != 0) {
    const int64_t left = static_cast<int64_t>(remaining & 0xffffffffu);
    const uint32_t divisor = run_divisor_.load(std::memory_order_relaxed);  // the next loop's, perhaps: then the exchange fails
    const int64_t run = divisor == 0 ? 1 : std::max<int64_t>(1, left / divisor);
    if (!remaining_.compare_exchange_weak(remaining, remaining - static_cast<uint64_t>(run), std::memory_order_acq_rel, std::memory_order_acquire)) continue;
    for (int64_t part = num_parts_ - left; part < num_parts_ - left + run; ++part) function_(context_, part);
    done_.fetch_add(run, std::memory_order_release);
    remaining = remaining_.load(std::memory_order_acquire);
  }
}

void ThreadPool::worker() {
  uint32_t seen = 0;
  while (true) {
    uint32_t generation = generation_.load(std::memory_order_acquire);
    for (int spin = 0; generation == seen && spin < kSpins; ++spin) {
      if (stopping_.load(std::memory_order_relaxed)) return;
      relax();
      generation = generation_.load(std::memory_order_acquire);
    }
    if (generation == seen) {
      std::unique_lock lock(mutex_);
      sleepers_.fetch_add(1, std::memory_order_seq_cst);
      wake_.wait(lock, [&] { return stopping_ || generation_.load(std::memory_order_seq_cst) != seen; });
      sleepers_.fetch_sub(1, std::memory_order_relaxed);
      if (stopping_) return;
      generation = generation_.load(std::memory_order_acquire);
    }
    seen = generation;
    work_on(generation);
  }
}
}  // namespace nibble
