// A fixed set of threads for loops over independent parts. The caller works too, so ThreadPool(1) starts no thread.
//
// Parts are fixed by the caller, never by the number of threads, so results do not depend on it. Between loops threads
// spin for a short while before they sleep: a decode step has hundreds of loops of some 10 us.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace nibble {
class ThreadPool {
 public:
  explicit ThreadPool(int num_threads);  // 0: as many as there are cores
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(part) for each part in [0, num_parts), each once, on any thread; returns when all are done.
  // The body must not throw and must not call run() on the same pool. One caller at a time.
  template <typename Body>
  void run(int64_t num_parts, const Body& body) {
    run_erased(num_parts, false, [](const void* context, int64_t part) { (*static_cast<const Body*>(context))(part); }, &body);
  }

  // The same, but a thread takes a run of parts at a time and works on them in order: long runs at first, single parts at the end. For parts that
  // cost the same and lie side by side in memory, so that each thread reads on where it is.
  template <typename Body>
  void run_in_runs(int64_t num_parts, const Body& body) {
    run_erased(num_parts, true, [](const void* context, int64_t part) { (*static_cast<const Body*>(context))(part); }, &body);
  }

 private:
  using PartFunction = void (*)(const void* context, int64_t part);
  void run_erased(int64_t num_parts, bool in_runs, PartFunction function, const void* context);
  void work_on(uint32_t generation);
  void worker();

  std::vector<std::thread> workers_;
  PartFunction function_ = nullptr;
  const void* context_ = nullptr;
  int64_t num_parts_ = 0;
  std::atomic<uint32_t> run_divisor_{0};  // a run is this part of what is left; 0: a run is one part
  // High 32 bits: the loop's number; low 32 bits: parts not yet taken. One word, so that a thread that comes late from the last loop
  // finds either nothing left or another number, and can take no part by mistake.
  std::atomic<uint64_t> remaining_{0};
  std::atomic<int64_t> done_{0};
  std::atomic<uint32_t> generation_{0};
  std::atomic<bool> stopping_{false};
  std::atomic<int> sleepers_{0};
  std::mutex mutex_;
  std::condition_variable wake_;
};
}  // namespace nibble
