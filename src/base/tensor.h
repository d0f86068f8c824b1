// Tensor: a view of dense row-major memory, on whichever device its maker says. Copy it freely; it owns nothing.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include "base/assert.h"
#include "base/dtype.h"

namespace nibble {
// At most 4 dimensions, outermost first.
struct Shape {
  static constexpr int kMaxRank = 4;
  std::array<int64_t, kMaxRank> dims{};
  int rank = 0;

  Shape() = default;
  Shape(std::initializer_list<int64_t> values) {
    NB_ASSERT(values.size() <= kMaxRank, "a tensor has at most 4 dimensions");
    for (int64_t v : values) dims[rank++] = v;
  }
  int64_t operator[](int i) const { return dims[i]; }
  int64_t count() const {
    int64_t n = 1;
    for (int i = 0; i < rank; ++i) n *= dims[i];
    return n;
  }
  bool operator==(const Shape& other) const {
    if (rank != other.rank) return false;
    for (int i = 0; i < rank; ++i) {
      if (dims[i] != other.dims[i]) return false;
    }
    return true;
  }
};

struct Tensor {
  void* data = nullptr;  // nullptr: no tensor
  DType dtype = DType::bf16;
  Shape shape;

  explicit operator bool() const { return data != nullptr; }
  int64_t count() const { return shape.count(); }
  int64_t bytes() const { return count() * size_of(dtype); }
  // A matrix's view of the tensor: the last dimension is the row.
  int64_t cols() const { return shape.rank == 0 ? 1 : shape[shape.rank - 1]; }
  int64_t rows() const { return cols() == 0 ? 0 : count() / cols(); }

  template <typename T>
  T* as() const {
    return static_cast<T*>(data);
  }
  // Rows [begin, begin + n) of a matrix.
  Tensor slice_rows(int64_t begin, int64_t n) const {
    NB_ASSERT(begin >= 0 && n >= 0 && begin + n <= rows(), "row slice out of range");
    return {static_cast<std::byte*>(data) + begin * cols() * size_of(dtype), dtype, {n, cols()}};
  }
};
}  // namespace nibble
