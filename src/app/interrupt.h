// Ctrl-C in commands that keep what they have: the first one asks to stop, the second ends the process at once.
#pragma once

namespace nibble {
class InterruptGuard {
 public:
  InterruptGuard();   // one at a time
  ~InterruptGuard();  // the former handlers again
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;
  static bool requested();
};
}  // namespace nibble
