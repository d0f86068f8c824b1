// The gate of the MLP: out = gelu(gate) * up, with the tanh form of gelu:
//   gelu(z) = 0.5 z (1 + tanh(sqrt(2 / pi) (z + 0.044715 z^3)))
// f32 inside, rounded once when `out` is bf16.
#pragma once

#include "base/tensor.h"

namespace nibble {
struct GeluGateArgs {
  Tensor gate, up;  // [rows, inner] f32
  Tensor out;       // [rows, inner] bf16 or f32
};

void validate(const GeluGateArgs& args);

class ThreadPool;
namespace cpu {
void gelu_gate(const GeluGateArgs& args, ThreadPool& threads);
}
}  // namespace nibble
