// A 128-bit content hash (XXH3) for cache keys: fast, well mixed, not cryptographic.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

namespace nibble {
struct Hash128 {
  uint64_t low = 0, high = 0;
  bool operator==(const Hash128&) const = default;
};

Hash128 hash_bytes(std::span<const std::byte> bytes, Hash128 seed = {});  // a seed chains hashes: the hash of a prefix seeds the next page
}  // namespace nibble

template <>
struct std::hash<nibble::Hash128> {
  size_t operator()(const nibble::Hash128& h) const noexcept { return h.low ^ h.high; }
};
