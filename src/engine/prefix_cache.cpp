#include "engine/prefix_cache.h"

#include <algorithm>

namespace nibble {
Hash128 PrefixCache::page_hash(std::span<const int32_t> ids, int32_t page, const CacheKey& key, Hash128 parent) const {
  const int32_t begin = page * page_tokens_, end = begin + page_tokens_;
  Hash128 hash = hash_bytes(std::as_bytes(ids.subspan(static_cast<size_t>(begin), static_cast<size_t>(page_tokens_))), parent);
  for (const SoftTokens& m : key.media) {
    if (m.first_position < end && m.end() > begin) hash = hash_bytes(std::as_bytes(std::span(&m.content, 1)), hash);
  }
  return hash;
}

std::vector<Hash128> PrefixCache::chain(std::span<const int32_t> ids, const CacheKey& key) const {
  std::vector<Hash128> hashes;
  Hash128 parent = key.salt;
  for (int32_t page = 0; static_cast<size_t>((page + 1) * page_tokens_) <= ids.size(); ++page) {
    parent = page_hash(ids, page, key, parent);
    if (!entries_.contains(parent)) break;
    hashes.push_back(parent);
  }
  return hashes;
}

// The first page that a token right behind `tokens` can see on a sliding layer.
int32_t PrefixCache::first_visible_page(int32_t tokens) const { return std::max(0, tokens - window_ + 1) / page_tokens_; }

int32_t PrefixCache::usable_pages(std::span<const Hash128> hashes, size_t num_ids) const {
  int32_t best = 0, run_begin = 0;  // sliding pages are present without a gap from run_begin on
  for (int32_t page = 0; page < static_cast<int32_t>(hashes.size()); ++page) {
    if (entries_.at(hashes[static_cast<size_t>(page)]).sliding_page == kNoPage) run_begin = page + 1;
    const int32_t tokens = (page + 1) * page_tokens_;
    if (static_cast<size_t>(tokens) < num_ids && run_begin <= first_visible_page(tokens)) best = page + 1;
  }
  return best;
}

int32_t PrefixCache::match_length(std::span<const int32_t> ids, const CacheKey& key) const { return usable_pages(chain(ids, key), ids.size()) * page_tokens_; }

PrefixCache::Match PrefixCache::match(std::span<const int32_t> ids, const CacheKey& key) {
  const std::vector<Hash128> hashes = chain(ids, key);
  const int32_t pages = usable_pages(hashes, ids.size());
  Match match;
  match.tokens = pages * page_tokens_;
  ++clock_;
  for (int32_t page = 0; page < pages; ++page) {
    Entry& entry = entries_.at(hashes[static_cast<size_t>(page)]);
    touch(hashes[static_cast<size_t>(page)], entry);
    full_.retain(entry.full_page);
    match.full_pages.push_back(entry.full_page);
    const bool visible = page >= first_visible_page(match.tokens);
    if (visible) sliding_.retain(entry.sliding_page);
    match.sliding_pages.push_back(visible ? entry.sliding_page : kNoPage);
  }
  // Two prompts part here: more may come that begin alike.
  if (pages > 0) set_anchor(hashes, pages);
  return match;
}

void PrefixCache::insert(std::span<const int32_t> ids, int32_t num_tokens, const CacheKey& key, std::span<const int32_t> full_pages,
                         std::span<const int32_t> sliding_pages, bool is_anchor) {
  ++clock_;
  std::vector<Hash128> hashes;
  Hash128 parent = key.salt;
  for (int32_t page = 0; (page + 1) * page_tokens_ <= num_tokens; ++page) {
    parent = page_hash(ids, page, key, parent);
    hashes.push_back(parent);
    const int32_t sliding_page = sliding_pages[static_cast<size_t>(page)];
    const auto [at, fresh] = entries_.try_emplace(parent);
    Entry& entry = at->second;
    if (fresh) {
      entry = {.full_page = full_pages[static_cast<size_t>(page)], .sliding_page = kNoPage, .depth = page, .last_used = clock_, .anchored = false};
      full_.retain_for_cache(entry.full_page);
      link(parent, entry);
    } else {
      touch(parent, entry);
    }
    if (entry.sliding_page == kNoPage && sliding_page != kNoPage) {
      unlink(parent, entry);
      entry.sliding_page = sliding_page;
      sliding_.retain_for_cache(sliding_page);
      link(parent, entry);
    }
  }
  if (is_anchor) set_anchor(hashes, static_cast<int32_t>(hashes.size()));
}

void PrefixCache::set_anchor(std::span<const Hash128> hashes, int32_t end_page) {
  for (int32_t page = first_visible_page(end_page * page_tokens_); page < end_page; ++page) {
    const Hash128& hash = hashes[static_cast<size_t>(page)];
    Entry& entry = entries_.at(hash);
    if (entry.anchored) continue;
    unlink(hash, entry);
    entry.anchored = true;
    link(hash, entry);
  }
}

void PrefixCache::link(const Hash128& hash, const Entry& entry) {
  full_order_.insert({entry.last_used, -entry.depth, hash.low, hash.high});
  if (entry.sliding_page != kNoPage) sliding_order_.insert({entry.anchored, entry.last_used, -entry.depth, hash.low, hash.high});
}

void PrefixCache::unlink(const Hash128& hash, const Entry& entry) {
  full_order_.erase({entry.last_used, -entry.depth, hash.low, hash.high});
  if (entry.sliding_page != kNoPage) sliding_order_.erase({entry.anchored, entry.last_used, -entry.depth, hash.low, hash.high});
}

void PrefixCache::touch(const Hash128& hash, Entry& entry) {
  unlink(hash, entry);
  entry.last_used = clock_;
  link(hash, entry);
}

void PrefixCache::drop_sliding(const Hash128& hash, Entry& entry) {
  unlink(hash, entry);
  sliding_.release_from_cache(entry.sliding_page);
  entry.sliding_page = kNoPage;
  entry.anchored = false;
  link(hash, entry);
}

bool PrefixCache::evict_sliding() {
  for (const auto& [anchored, last_used, depth, low, high] : sliding_order_) {
    const Hash128 hash{low, high};
    Entry& entry = entries_.at(hash);
    if (sliding_.references(entry.sliding_page) > 1) continue;  // a running sequence uses it: nothing would be freed
    drop_sliding(hash, entry);
    return true;
  }
  return false;
}

bool PrefixCache::evict_full() {
  for (const auto& [last_used, depth, low, high] : full_order_) {
    const Hash128 hash{low, high};
    Entry& entry = entries_.at(hash);
    if (full_.references(entry.full_page) > 1) continue;
    if (entry.sliding_page != kNoPage) drop_sliding(hash, entry);
    unlink(hash, entry);
    full_.release_from_cache(entry.full_page);
    entries_.erase(hash);
    return true;
  }
  return false;
}

void PrefixCache::clear() {
  for (auto& [hash, entry] : entries_) {
    full_.release_from_cache(entry.full_page);
    if (entry.sliding_page != kNoPage) sliding_.release_from_cache(entry.sliding_page);
  }
  entries_.clear();
  full_order_.clear();
  sliding_order_.clear();
}
}  // namespace nibble
