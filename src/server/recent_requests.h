// The requests of the last minutes, for a dump when the process crashes: lines of JSON, kept in memory, written from a signal handler if need be.
#pragma once

#include <cstdint>
#include <deque>
#include <mutex>
#include <string>

namespace nibble {
class RecentRequests {
 public:
  static constexpr double kSeconds = 300;
  static constexpr int64_t kMaxBytes = 64 << 20;     // of all lines; the oldest go first
  static constexpr size_t kMaxLineBytes = 1 << 20;   // a longer one wants to be shortened first

  void add(std::string line);
  // Every line, oldest first, each with a newline; allocates nothing and waits at most a moment for a thread that is inside add(). False: a write failed, or there was no getting in.
  bool write_to(int fd);
  int64_t bytes() const;

 private:
  struct Entry {
    double time;
    std::string line;
  };
  mutable std::mutex mutex_;
  std::deque<Entry> entries_;
  int64_t bytes_ = 0;
};
}  // namespace nibble
