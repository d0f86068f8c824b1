// A pool of KV pages: numbers with reference counts. The pages themselves lie in the model.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/assert.h"

namespace nibble {
class PagePool {
 public:
  explicit PagePool(int32_t num_pages) : references_(static_cast<size_t>(num_pages), 0), cached_(static_cast<size_t>(num_pages), false) {
    for (int32_t page = num_pages - 1; page >= 0; --page) free_.push_back(page);
  }

  int32_t total() const { return static_cast<int32_t>(references_.size()); }
  int32_t num_free() const { return static_cast<int32_t>(free_.size()); }
  int32_t references(int32_t page) const { return references_[static_cast<size_t>(page)]; }

  std::optional<int32_t> allocate() {
    if (free_.empty()) return std::nullopt;
    const int32_t page = free_.back();
    free_.pop_back();
    references_[static_cast<size_t>(page)] = 1;
    return page;
  }
  void retain(int32_t page) {
    NB_ASSERT(references(page) > 0, "retained a free page");
    num_idle_ -= is_idle(page);
    ++references_[static_cast<size_t>(page)];
  }
  void release(int32_t page) {
    NB_ASSERT(references(page) > 0, "released a free page");
    if (--references_[static_cast<size_t>(page)] == 0) free_.push_back(page);
    num_idle_ += is_idle(page);
  }

  // The same for the prefix cache, whose pages come free on demand once nobody else holds them: those are idle.
  void retain_for_cache(int32_t page) {
    NB_ASSERT(!cached_[static_cast<size_t>(page)], "a page was cached twice");
    retain(page);
    cached_[static_cast<size_t>(page)] = true;
  }
  void release_from_cache(int32_t page) {
    NB_ASSERT(cached_[static_cast<size_t>(page)], "released a page that was not cached");
    num_idle_ -= is_idle(page);
    cached_[static_cast<size_t>(page)] = false;
    release(page);
  }
  int32_t num_idle() const { return num_idle_; }

 private:
  bool is_idle(int32_t page) const { return cached_[static_cast<size_t>(page)] && references(page) == 1; }

  std::vector<int32_t> references_, free_;
  std::vector<bool> cached_;  // the cache holds one of the references
  int32_t num_idle_ = 0;
};
}  // namespace nibble
