#include "kernels/cpu/roofs.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "base/clock.h"
#include "kernels/cpu/cpu_features.h"
#include "kernels/cpu/linear_avx512_bf16.h"

namespace nibble::cpu {
namespace {
void read_once(const uint8_t* memory, int64_t bytes) {
  if (active_isa() == Isa::avx512_bf16) return avx512_bf16::touch(memory, bytes);
  const auto* words = reinterpret_cast<const uint64_t*>(memory);
  uint64_t sum = 0;
  for (int64_t i = 0; i < bytes / 8; ++i) sum ^= words[i];
  volatile uint64_t sink = sum;
  static_cast<void>(sink);
}
}  // namespace

double measure_read_bandwidth(ThreadPool& threads) {
  constexpr int64_t kBytes = int64_t{512} << 20, kPart = int64_t{4} << 20;
  struct Free {
    void operator()(void* p) const noexcept { std::free(p); }
  };
  const std::unique_ptr<uint8_t, Free> memory(static_cast<uint8_t*>(std::aligned_alloc(size_t{2} << 20, kBytes)));
  ::madvise(memory.get(), kBytes, MADV_HUGEPAGE);
  std::memset(memory.get(), 1, kBytes);
  double best = 0;
  for (int pass = 0; pass < 8; ++pass) {
    const double began = monotonic_seconds();
    threads.run(kBytes / kPart, [&](int64_t part) { read_once(memory.get() + part * kPart, kPart); });
    best = std::max(best, static_cast<double>(kBytes) / (monotonic_seconds() - began));
  }
  return best;
}

double measure_bf16_peak(ThreadPool& threads) {
  if (active_isa() != Isa::avx512_bf16) return 0;
  constexpr int64_t kRounds = 2'000'000;
  double best = 0;
  for (int pass = 0; pass < 5; ++pass) {
    const double began = monotonic_seconds();
    threads.run(threads.size(), [&](int64_t) { avx512_bf16::spin(kRounds); });
    best = std::max(best, static_cast<double>(threads.size()) * static_cast<double>(avx512_bf16::flops_of_spin(kRounds)) / (monotonic_seconds() - began));
  }
  return best;
}
}  // namespace nibble::cpu
