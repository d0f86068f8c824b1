#include "app/watchdog.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>

#include "base/clock.h"
#include "base/log.h"

namespace nibble {
Watchdog::Watchdog(const Engine& engine, double soft, double hard, std::function<void(const std::string&)> before_end) : engine_(engine), before_end_(std::move(before_end)) {
  if (soft > 0 || hard > 0) thread_ = std::thread([this, soft, hard] { watch(soft, hard); });
}

Watchdog::~Watchdog() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  ended_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void Watchdog::watch(double soft, double hard) {
  const double shortest = std::min(soft > 0 ? soft : hard, hard > 0 ? hard : soft);
  const auto pause = std::chrono::duration<double>(std::clamp(shortest / 10, 0.01, 5.0));
  bool told = false;
  std::unique_lock lock(mutex_);
  while (!ended_.wait_for(lock, pause, [&] { return ending_; })) {
    const EngineStats s = engine_.stats();
    const double idle = s.busy ? monotonic_seconds() - s.last_progress_seconds : 0.0;
    const bool fatal = hard > 0 && idle > hard;
    if (idle < shortest) told = false;
    if (!fatal && (told || soft <= 0 || idle < soft)) continue;
    told = true;
    log_error("no step has ended for {:.1f} s: {} running, {} waiting, full pages {} of {}, sliding pages {} of {}", idle, s.running, s.queued, s.full_pages_used, s.full_pages_total,
              s.sliding_pages_used, s.sliding_pages_total);
    if (!fatal) continue;
    log_error("the process ends with status {} (--watchdog-timeout {:g})", kExitStatus, hard);
    if (before_end_) before_end_("a step did not end");
    std::_Exit(kExitStatus);
  }
}
}  // namespace nibble
