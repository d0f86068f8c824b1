// Work to be done at a time of the monotonic clock, in order.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <utility>

namespace nibble {
class Timers {
 public:
  void add(int64_t when_ns, std::function<void()> work) { due_.emplace(when_ns, std::move(work)); }
  bool empty() const { return due_.empty(); }
  int64_t next(int64_t otherwise) const { return due_.empty() ? otherwise : due_.begin()->first; }
  void clear() { due_.clear(); }
  void run_due(int64_t now_ns) {
    while (!due_.empty() && due_.begin()->first <= now_ns) {
      auto work = std::move(due_.begin()->second);
      due_.erase(due_.begin());
      work();
    }
  }

 private:
  std::multimap<int64_t, std::function<void()>> due_;
};
}  // namespace nibble
