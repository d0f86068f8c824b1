// Rows of the embedding table, scaled: out[t] = table[ids[t]] * scale, rounded to bf16 unless the engine runs in f32.
#pragma once

#include <cstdint>
#include <span>

#include "base/tensor.h"

namespace nibble {
struct EmbedArgs {
  std::span<const int32_t> ids;  // each in [0, vocab)
  Tensor table;                  // [vocab, hidden] bf16
  float scale = 1.0f;            // itself a bf16 number
  bool round_to_bf16 = true;
  Tensor out;                    // [rows, hidden] f32
};

void validate(const EmbedArgs& args);

namespace cpu {
void embed(const EmbedArgs& args);
}
}  // namespace nibble
