// What the tests of the CUDA backend against the CPU's share.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/number_formats.h"
#include "base/rng.h"
#include "kernels/backend.h"

namespace nibble {
inline constexpr int64_t kMaxRows = 512;

struct Twins {
  std::unique_ptr<Backend> cpu = make_cpu_backend({.num_threads = 2}), cuda;
  std::string why_not;
  Twins() {
    try {
      cuda = make_cuda_backend({.max_rows = kMaxRows, .record = false});  // a record keeps the tensors of its first step, these tests use many
    } catch (const Error& error) {
      why_not = error.message;
    }
  }
};
#define NB_TWINS(twins) \
  Twins twins;          \
  if (!twins.cuda) GTEST_SKIP() << twins.why_not

struct Random {
  uint64_t seed;
  uint32_t counter = 0;
  uint32_t bits() { return philox4x32({counter++, 0, 0, 0}, seed)[0]; }
  float symmetric() { return uniform_float(bits()) * 2.0f - 1.0f; }
  std::vector<float> floats(int64_t n) {
    std::vector<float> x(static_cast<size_t>(n));
    for (float& v : x) v = symmetric();
    return x;
  }
  std::vector<bf16> halves(int64_t n) {
    std::vector<bf16> x(static_cast<size_t>(n));
    for (bf16& v : x) v = to_bf16(symmetric());
    return x;
  }
};

template <typename T>
constexpr DType dtype_of() {
  if constexpr (std::is_same_v<T, float>) return DType::f32;
  return DType::bf16;
}
template <typename T>
Tensor put(Backend& backend, const std::vector<T>& values, const Shape& shape) {
  const Tensor t = backend.allocate(dtype_of<T>(), shape, "test");
  backend.upload(values.data(), t);
  return t;
}
inline std::vector<float> get(Backend& backend, const Tensor& t) {
  std::vector<float> out(static_cast<size_t>(t.count()));
  if (t.dtype == DType::f32) {
    backend.download(t, out.data());
  } else {
    std::vector<bf16> raw(out.size());
    backend.download(t, raw.data());
    for (size_t i = 0; i < raw.size(); ++i) out[i] = to_float(raw[i]);
  }
  return out;
}
inline void expect_close(const std::vector<float>& got, const std::vector<float>& want, float absolute, float relative, const std::string& what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], want[i], absolute + relative * std::fabs(want[i])) << what << " at " << i;
}
}  // namespace nibble
