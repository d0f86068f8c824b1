#include "kernels/cpu/roofs.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "base/clock.h"
#include "base/error.h"
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

constexpr int64_t kBytes = int64_t{512} << 20, kPart = int64_t{256} << 10;
}  // namespace

RoofMeter::RoofMeter(ThreadPool& threads) : threads_(threads), memory_(static_cast<uint8_t*>(std::aligned_alloc(size_t{2} << 20, kBytes))) {
  if (!memory_) raise(ErrorCode::out_of_memory, "cannot allocate {} MB to measure the memory's bandwidth with", kBytes >> 20);
  ::madvise(memory_.get(), kBytes, MADV_HUGEPAGE);
  std::memset(memory_.get(), 1, kBytes);
}

double RoofMeter::read_rate(int64_t bytes) {
  const auto read = [&](int64_t parts) {
    if (next_ + parts * kPart > kBytes) next_ = 0;
    const uint8_t* from = memory_.get() + next_;
    const double began = monotonic_seconds();
    threads_.run_in_runs(parts, [&](int64_t part) { read_once(from + part * kPart, kPart); });
    next_ += parts * kPart;
    return static_cast<double>(parts * kPart) / (monotonic_seconds() - began);
  };
  read(16);  // a thread that fell asleep is woken before the clock runs, as it is before an op
  return read(std::clamp<int64_t>(bytes / kPart, 1, kBytes / kPart));
}

double RoofMeter::bf16_rate(double seconds) {
  if (active_isa() != Isa::avx512_bf16) return 0;
  // Short parts, so that threads end together even where one of them had to give way to other work. 4,000 rounds of sixteen products are about 20 us.
  constexpr int64_t kRounds = 4000;
  const auto parts = std::max<int64_t>(2, static_cast<int64_t>(seconds / 20e-6)) * threads_.size();
  const double began = monotonic_seconds();
  threads_.run(parts, [&](int64_t) { avx512_bf16::spin(kRounds); });
  return static_cast<double>(parts) * static_cast<double>(avx512_bf16::flops_of_spin(kRounds)) / (monotonic_seconds() - began);
}
}  // namespace nibble::cpu
