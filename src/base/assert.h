// NB_ASSERT: a caller's mistake ends the program, in every build, with the place and a sentence.
#pragma once

namespace nibble {
[[noreturn]] void assertion_failed(const char* condition, const char* file, int line, const char* message);
}  // namespace nibble

#define NB_ASSERT(condition, message) \
  (static_cast<bool>(condition) ? void(0) : ::nibble::assertion_failed(#condition, __FILE__, __LINE__, message))
