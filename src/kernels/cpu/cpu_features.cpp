#include "kernels/cpu/cpu_features.h"

#include <algorithm>
#include <cstdlib>

#include "base/error.h"

namespace nibble::cpu {
namespace {
constexpr Isa kAll[] = {Isa::plain, Isa::avx2, Isa::avx512, Isa::avx512_bf16};

Isa choose() {
  const char* wanted = std::getenv("NIBBLE_CPU_ISA");
  if (!wanted || !*wanted) return best_isa();
  for (const Isa isa : kAll) {
    if (name_of(isa) == wanted) return std::min(isa, best_isa());
  }
  raise(ErrorCode::invalid_argument, "NIBBLE_CPU_ISA={}: wanted plain, avx2, avx512 or avx512_bf16", wanted);
}
}  // namespace

Isa best_isa() {
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  if (avx512 && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vbmi")) return Isa::avx512_bf16;
  if (avx512) return Isa::avx512;
  if (avx2) return Isa::avx2;
#endif
  return Isa::plain;
}

Isa active_isa() {
  static const Isa isa = choose();
  return isa;
}

std::string_view name_of(Isa isa) {
  switch (isa) {
    case Isa::plain: return "plain";
    case Isa::avx2: return "avx2";
    case Isa::avx512: return "avx512";
    case Isa::avx512_bf16: return "avx512_bf16";
  }
  return "?";
}
}  // namespace nibble::cpu
