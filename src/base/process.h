// What a start cost: of this process, as the kernel counts it.
#pragma once

#include <cstdint>

namespace nibble {
double process_age_seconds();  // since exec, to a hundredth; 0 where the kernel does not tell
int64_t peak_host_bytes();     // resident at most, mapped files included
int64_t program_bytes();       // size of the executable file; 0 where it is gone
}  // namespace nibble
