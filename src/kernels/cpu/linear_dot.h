// Linear layers straight from the checkpoint's layout: each row of W is widened to f32 once and multiplied with every row of x, in sixteen partial sums.
// Serves f32 activations, and bf16 ones on processors without AVX-512-BF16. Decoding, and four rows at a time, are by hand for AVX2, the rest is
// compiled for several instruction sets; same bits in all.
#pragma once

#include "base/thread_pool.h"
#include "kernels/linear.h"

namespace nibble::cpu {
// out = input_scale * (x W^T); x [rows, K] bf16 or f32, out [rows, N] f32.
void linear_dot(const LinearWeight& weight, const Tensor& x, float input_scale, const Tensor& out, ThreadPool& threads);
}  // namespace nibble::cpu
