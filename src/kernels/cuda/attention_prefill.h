// Attention of many rows of one sequence: the same canonical sum as attention.h to the bit, on wgmma.
//
// First the keys and values that the rows see are gathered from their pages into scratch, widened to bf16, as tiles of 64 keys in the layout that wgmma reads:
//   [key tile][kv_heads][dim / 64][64 keys][64 channels], 16-byte pieces of a row swizzled by the row; keys beyond the sequence's last are zeros.
// Then a CTA takes 64 or 128 rows x heads of one key/value head and one run of splits, or all runs one after another. Runs go to scratch, as they lie in
// registers; who finishes a tile's last run joins them.
#pragma once

#include <span>

#include "kernels/cuda/attention.h"

namespace nibble::cuda {
// Rows x heads of a tile; two tiles, of one sequence, stand together.
inline constexpr int kWideTileRows = 64;

bool attention_prefill_supports(int heads, int kv_heads, int dim, int window);
// Runs of splits that a pair of tiles overlaps whose first row stands at `first` and whose last one sees up to `last`.
int attention_prefill_runs(int first, int last, int window);
// Whether the scratch holds this sequence's gathered keys and one pair of tiles.
bool attention_prefill_fits(const Attention& args, const WideSequence& sequence);
// Rows of `sequences`, whose pages, tiles and key tiles args.pool names. counters: zeros, as many as kPrefillCounters; left as zeros.
inline constexpr int kPrefillCounters = 1 << 14;
void attention_prefill(const Attention& args, std::span<const WideSequence> sequences, int* counters, cudaStream_t stream);
}  // namespace nibble::cuda
