#include "base/assert.h"

#include <cstdio>
#include <cstdlib>

namespace nibble {
void assertion_failed(const char* condition, const char* file, int line, const char* message) {
  std::fprintf(stderr, "%s:%d: %s (violated: %s)\n", file, line, message, condition);
  std::abort();
}
}  // namespace nibble
