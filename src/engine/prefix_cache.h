// Prefixes whose K and V are already in pages: found by a chain of hashes over whole pages of token ids, dropped least recently used first.
//
// A prefix of P tokens can be continued iff all its full-attention pages are here and also the sliding pages that its next token can see, those that overlap
// (P - window, P). Sliding pages of a long prefix would fill their pool soon, so under pressure those go first that no prefix end needs: ends worth keeping
// ("anchors") are where a prompt ended and where two prompts parted. docs/decisions/002 has the reasons.
#pragma once

#include <cstdint>
#include <set>
#include <span>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "base/hash.h"
#include "engine/kv_pages.h"
#include "model/soft_tokens.h"

namespace nibble {
// What a prefix depends on besides its ids: who may share it, and the media inside, whose ids are all alike. A page with a part of a picture depends on the
// whole picture, so its key holds the hash of all its content; and so a prefix may end inside one.
struct CacheKey {
  CacheKey(Hash128 s) : salt(s) {}
  CacheKey(Hash128 s, std::span<const SoftTokens> m) : salt(s), media(m) {}
  Hash128 salt;
  std::span<const SoftTokens> media;  // ascending
};

class PrefixCache {
 public:
  static constexpr int32_t kNoPage = -1;

  PrefixCache(PagePool& full, PagePool& sliding, int32_t page_tokens, int32_t window)
      : full_(full), sliding_(sliding), page_tokens_(page_tokens), window_(window) {}
  ~PrefixCache() { clear(); }
  PrefixCache(const PrefixCache&) = delete;
  PrefixCache& operator=(const PrefixCache&) = delete;

  struct Match {
    int32_t tokens = 0;                  // a multiple of the page size, less than the prompt's length
    std::vector<int32_t> full_pages;     // retained for the caller, [tokens / page_tokens]
    std::vector<int32_t> sliding_pages;  // retained where present; kNoPage before the window
  };
  // The longest usable prefix that leaves at least one token to compute. Its pages are retained for the caller.
  Match match(std::span<const int32_t> ids, const CacheKey& key);
  int32_t match_length(std::span<const int32_t> ids, const CacheKey& key) const;  // the same without taking anything

  // Offers the whole pages among the first `num_tokens` computed ids; pages already here are left as they are. `is_anchor`: the prefix ends here for a reason
  // (a prompt's end), so the window before it is worth keeping.
  void insert(std::span<const int32_t> ids, int32_t num_tokens, const CacheKey& key, std::span<const int32_t> full_pages, std::span<const int32_t> sliding_pages,
              bool is_anchor);

  // Frees at least one page of the pool if the cache is all that holds one; false if none.
  bool evict_full();
  bool evict_sliding();
  void clear();

 private:
  struct Entry {
    int32_t full_page = kNoPage, sliding_page = kNoPage;
    int32_t depth = 0;       // pages before this one
    uint64_t last_used = 0;
    bool anchored = false;   // its sliding page lies in the window of a prefix end worth keeping
  };
  using FullKey = std::tuple<uint64_t, int32_t, uint64_t, uint64_t>;            // last_used, -depth, hash
  using SlidingKey = std::tuple<bool, uint64_t, int32_t, uint64_t, uint64_t>;   // anchored, last_used, -depth, hash

  Hash128 page_hash(std::span<const int32_t> ids, int32_t page, const CacheKey& key, Hash128 parent) const;
  std::vector<Hash128> chain(std::span<const int32_t> ids, const CacheKey& key) const;  // hashes of the leading pages that are here
  int32_t usable_pages(std::span<const Hash128> hashes, size_t num_ids) const;
  int32_t first_visible_page(int32_t tokens) const;
  void touch(const Hash128& hash, Entry& entry);
  void set_anchor(std::span<const Hash128> hashes, int32_t end_page);
  void link(const Hash128& hash, const Entry& entry);
  void unlink(const Hash128& hash, const Entry& entry);
  void drop_sliding(const Hash128& hash, Entry& entry);

  PagePool& full_;
  PagePool& sliding_;
  int32_t page_tokens_, window_;
  uint64_t clock_ = 0;
  std::unordered_map<Hash128, Entry> entries_;
  std::set<FullKey> full_order_;
  std::set<SlidingKey> sliding_order_;
};
}  // namespace nibble
