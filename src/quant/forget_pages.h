// Mapped weights that are not needed again for a while: their pages count as ours until the kernel is told.
#pragma once

#include <sys/mman.h>

#include <cstdint>

#include "base/tensor.h"

namespace nibble {
inline void forget_pages(const Tensor& mapped) {
  const auto begin = (reinterpret_cast<uintptr_t>(mapped.data) + 4095) & ~uintptr_t{4095};
  const auto end = (reinterpret_cast<uintptr_t>(mapped.data) + static_cast<uintptr_t>(mapped.bytes())) & ~uintptr_t{4095};
  if (end > begin) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}
}  // namespace nibble
