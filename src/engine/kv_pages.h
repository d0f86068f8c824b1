// A pool of KV pages: numbers with reference counts. The pages themselves lie in the model.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/assert.h"

namespace nibble {
class PagePool {
 public:
  explicit PagePool(int32_t num_pages) : references_(static_cast<size_t>(num_pages), 0) {
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
    ++references_[static_cast<size_t>(page)];
  }
  void release(int32_t page) {
    NB_ASSERT(references(page) > 0, "released a free page");
    if (--references_[static_cast<size_t>(page)] == 0) free_.push_back(page);
  }

 private:
  std::vector<int32_t> references_, free_;
};
}  // namespace nibble
