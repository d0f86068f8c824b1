// The final soft cap, in place: x = cap * tanh(x / cap), f32.
#pragma once

#include "base/tensor.h"

namespace nibble {
class ThreadPool;
namespace cpu {
void softcap(const Tensor& logits, float cap, ThreadPool& threads);  // [rows, vocab] f32
}
}  // namespace nibble
