#include "server/recent_requests.h"

#include <ctime>
#include <unistd.h>

#include "base/clock.h"

namespace nibble {
void RecentRequests::add(std::string line) {
  line += '\n';
  const double now = monotonic_seconds();
  const std::lock_guard lock(mutex_);
  bytes_ += static_cast<int64_t>(line.size());
  entries_.push_back({now, std::move(line)});
  while (entries_.size() > 1 && (bytes_ > kMaxBytes || entries_.front().time < now - kSeconds)) {
    bytes_ -= static_cast<int64_t>(entries_.front().line.size());
    entries_.pop_front();
  }
}

bool RecentRequests::write_to(int fd) {
  // The thread that crashed may be the one that holds the lock.
  std::unique_lock lock(mutex_, std::defer_lock);
  for (int tries = 0; tries < 100 && !lock.try_lock(); ++tries) {
    const timespec pause{.tv_sec = 0, .tv_nsec = 2'000'000};
    nanosleep(&pause, nullptr);
  }
  if (!lock.owns_lock()) return false;
  const double oldest = monotonic_seconds() - kSeconds;
  for (const Entry& entry : entries_) {
    if (entry.time < oldest) continue;
    for (size_t at = 0; at < entry.line.size();) {
      const ssize_t n = ::write(fd, entry.line.data() + at, entry.line.size() - at);
      if (n <= 0) return false;
      at += static_cast<size_t>(n);
    }
  }
  return true;
}

int64_t RecentRequests::bytes() const {
  const std::lock_guard lock(mutex_);
  return bytes_;
}
}  // namespace nibble
