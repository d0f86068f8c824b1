#include "base/hash.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace nibble {
Hash128 hash_bytes(std::span<const std::byte> bytes, Hash128 seed) {
  // XXH3 takes 64 seed bits; the other half goes in as a prefix of the message would: by mixing it into the result's seed.
  const XXH128_hash_t h = XXH3_128bits_withSeed(bytes.data(), bytes.size(), seed.low ^ (seed.high * 0x9E3779B97F4A7C15ull));
  return {h.low64, h.high64};
}
}  // namespace nibble
