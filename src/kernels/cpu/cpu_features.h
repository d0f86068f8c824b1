// Which instruction set the kernels use: the best that the processor has, or less by NIBBLE_CPU_ISA=plain|avx2|avx512|avx512_bf16.
#pragma once

#include <string_view>

namespace nibble::cpu {
enum class Isa { plain, avx2, avx512, avx512_bf16 };

Isa best_isa();             // of this processor
Isa active_isa();           // best_isa(), or what the environment asks for where the processor has it; fixed at the first call
std::string_view name_of(Isa isa);
}  // namespace nibble::cpu
