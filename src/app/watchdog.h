// Watches that the engine's steps end.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

#include "engine/engine.h"

namespace nibble {
class Watchdog {
 public:
  // Seconds without a finished step while requests run: after `soft` the state is logged once, after `hard` also the process ends with kExitStatus. 0: never.
  static constexpr int kExitStatus = 134;
  // before_end: called with the reason before the process ends.
  Watchdog(const Engine& engine, double soft, double hard, std::function<void(const std::string&)> before_end = {});
  ~Watchdog();

 private:
  void watch(double soft, double hard);

  const Engine& engine_;
  std::function<void(const std::string&)> before_end_;
  std::mutex mutex_;
  std::condition_variable ended_;
  bool ending_ = false;
  std::thread thread_;
};
}  // namespace nibble
