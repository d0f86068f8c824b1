// The two roofs of this machine, all threads at work: how fast memory can be read, and how fast bf16 products can be formed in registers.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>

#include "base/thread_pool.h"

namespace nibble::cpu {
// Holds 512 MB, many times what caches hold, on huge pages, and reads on through it from one call to the next.
class RoofMeter {
 public:
  explicit RoofMeter(ThreadPool& threads);

  double read_rate(int64_t bytes);  // bytes per second, of reading about that many once, each thread runs of 256 KB in order; at most 512 MB
  double bf16_rate(double seconds); // floating-point operations per second of vdpbf16ps without memory, over about that time; 0 where the processor lacks it

 private:
  struct Free {
    void operator()(void* p) const noexcept { std::free(p); }
  };
  ThreadPool& threads_;
  std::unique_ptr<uint8_t, Free> memory_;
  int64_t next_ = 0;
};
}  // namespace nibble::cpu
