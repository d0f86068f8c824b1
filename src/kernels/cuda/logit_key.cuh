// Logits as integers whose order is theirs: larger keys are better, higher values first, then lower ids. NaN sorts above all.
#pragma once

#include <cstdint>

#include "kernels/candidates.h"

namespace nibble::cuda {
__device__ __forceinline__ uint64_t key_of(float x, int id) {
  uint32_t bits = __float_as_uint(x);
  bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return uint64_t{bits} << 32 | static_cast<uint32_t>(~id);
}
__device__ __forceinline__ int32_t id_of(uint64_t key) { return static_cast<int32_t>(~static_cast<uint32_t>(key)); }
__device__ __forceinline__ Candidate candidate_of(uint64_t key) {
  const auto high = static_cast<uint32_t>(key >> 32);
  return {__uint_as_float(high & 0x80000000u ? high & 0x7fffffffu : ~high), id_of(key)};
}
}  // namespace nibble::cuda
