// Two checkpoints of one model, tensor by tensor, in whatever formats: how far B's weights are from A's.
//
// Both are dequantized to f32 as the engine would read them; names are compared after the vision layouts are made one. Scales are part of their weight and no
// tensors of their own; scales of activations and of the KV cache are not compared.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/tensor.h"

namespace nibble {
struct TensorDifference {
  std::string name;                // canonical, without a leading "model."
  std::string format_a, format_b;  // "BF16", "NVFP4", "FP8 128x128", ...; empty: the checkpoint does not have it
  Shape shape;
  double a_sq = 0, error_sq = 0;   // sum A^2, sum (A - B)^2
  int64_t worst_row = 0, worst_col = 0;  // where the block of 16 values of one row with the largest error begins
  double worst_block_error = 0;    // |A - B| / |A| over that block (|A - B| where A is zero)
  bool missing() const { return format_a.empty() || format_b.empty(); }
  double relative_error() const;   // |A - B| / |A|; 0 when both are equal
};

// Worst first: missing ones, then by falling relative error, then by name. Raises corrupt on scales or shapes that do not fit, naming folder and tensor.
std::vector<TensorDifference> compare_checkpoints(const std::filesystem::path& a, const std::filesystem::path& b, int num_threads);
}  // namespace nibble
