// Linear layers on the CPU: a weight is packed once for the instruction set, then run for any number of rows.
//
// avx512_bf16 packs outputs in groups of kGroup = 64, which lie across four vectors of 16 lanes, and walks the inputs in pairs:
//   BF16      [N / 64][K / 2][64][2] bf16
//   FP8       [N / 64][K / 4][4 vectors][64 bytes] e4m3, two pairs of one vector interleaved so that one unpack yields both
//   NVFP4     [N / 64][K / 16][2 halves of the inputs][4 vectors][64 bytes of codes], then per 16 inputs [16][4 vectors] e4m3 scales
// One row walks these bytes from the first to the last, and leaves prefetching to the processor, which does it well as long as the order is that of memory.
// Every kernel forms a row's sums alike: outputs across the lanes, inputs in order, one chain per (output, block) where blocks have scales, each chain
// started from zero, scaled, and added to the total. So the bits do not depend on how many rows there are.
//
// The other instruction sets read the checkpoint's own layout, row by row, with sixteen partial sums.
#pragma once

#include <memory>

#include "base/thread_pool.h"
#include "kernels/backend.h"

namespace nibble::cpu {
std::unique_ptr<PreparedLinear> pack_linear(const LinearWeight& weight, ActivationQuant activations, ThreadPool& threads);

// x [rows, K] bf16 or f32, out [rows, N] f32. f32 inputs compute in f32 whatever the instruction set.
void run_linear(const PreparedLinear& weight, const Tensor& x, const Tensor& out, ThreadPool& threads);

// Rounds rows of activations to NVFP4 and back, without the factor `global_scale`, which the caller applies to the sums:
// per 16 values S = e4m3(max|x| / 6 / global_scale), out = e2m1(x / (S global_scale)) * S, which bf16 holds exactly.
void quantize_nvfp4_rows(const Tensor& x, float global_scale, const Tensor& out, ThreadPool& threads);
}  // namespace nibble::cpu
