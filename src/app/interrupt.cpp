#include "app/interrupt.h"

#include <unistd.h>

#include <csignal>

namespace nibble {
namespace {
volatile std::sig_atomic_t g_requested = 0;
void (*g_former_int)(int) = SIG_DFL;
void (*g_former_term)(int) = SIG_DFL;

void on_signal(int signal) {
  if (g_requested) _exit(128 + signal);
  g_requested = 1;
}
}  // namespace

InterruptGuard::InterruptGuard() {
  g_requested = 0;
  g_former_int = std::signal(SIGINT, on_signal);
  g_former_term = std::signal(SIGTERM, on_signal);
}
InterruptGuard::~InterruptGuard() {
  std::signal(SIGINT, g_former_int);
  std::signal(SIGTERM, g_former_term);
}
bool InterruptGuard::requested() { return g_requested != 0; }
}  // namespace nibble
