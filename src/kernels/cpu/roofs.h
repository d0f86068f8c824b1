// The two roofs of this machine, all threads at work: how fast memory can be read, and how fast bf16 products can be formed in registers.
#pragma once

#include "base/thread_pool.h"

namespace nibble::cpu {
double measure_read_bandwidth(ThreadPool& threads);  // bytes per second, over a buffer far larger than the caches; the best of several passes
double measure_bf16_peak(ThreadPool& threads);       // floating-point operations per second of vdpbf16ps without memory; 0 where the processor lacks it
}  // namespace nibble::cpu
