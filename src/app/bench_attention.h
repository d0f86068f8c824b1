// The attention part of `nibble bench ops`: the heads of the 12B model, one sequence, on a GPU.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace nibble {
struct AttentionTime {
  std::string op, format;  // what, and the cache's dtype
  int64_t rows = 0, bytes = 0;  // bytes: keys and values that the rows see, each once
  double seconds = 0, flops = 0;
};
// Decode rows at contexts up to 128K and prefill chunks of 2,048 rows, each for at least `seconds`.
void bench_attention(double seconds, const std::function<void(const AttentionTime&)>& report);
}  // namespace nibble
