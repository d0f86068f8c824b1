#include "kernels/attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "base/number_formats.h"
#include "base/rng.h"
#include "base/thread_pool.h"
#include "kernels/cpu/attention.h"

namespace nibble {
namespace {
struct Setup {
  int64_t heads, kv_heads, d;
  DType cache;
  int32_t window;
};

// A sequence of `tokens` positions in shuffled pages.
struct Fixture {
  Setup setup;
  int64_t tokens;
  std::vector<int32_t> pages;
  std::vector<float> q;
  std::vector<std::byte> k, v;

  Fixture(const Setup& s, int64_t n) : setup(s), tokens(n) {
    const int64_t num_pages = (n + kPageTokens - 1) / kPageTokens;
    for (int64_t i = 0; i < num_pages; ++i) pages.push_back(static_cast<int32_t>(num_pages - 1 - i));
    const auto random = [](int64_t i, uint64_t seed) { return uniform_float(philox4x32({static_cast<uint32_t>(i), 0, 0, 0}, seed)[0]) * 2 - 1; };
    for (int64_t i = 0; i < n * s.heads * s.d; ++i) q.push_back(random(i, 1));
    const int64_t count = num_pages * s.kv_heads * s.d * kPageTokens;
    for (auto* memory : {&k, &v}) {
      memory->resize(static_cast<size_t>(count * size_of(s.cache)));
      for (int64_t i = 0; i < count; ++i) {
        const float x = random(i, memory == &k ? 2 : 3);
        if (s.cache == DType::f32) reinterpret_cast<float*>(memory->data())[i] = x;
        if (s.cache == DType::bf16) reinterpret_cast<bf16*>(memory->data())[i] = to_bf16(x);
        if (s.cache == DType::e4m3) reinterpret_cast<e4m3*>(memory->data())[i] = to_e4m3(x);
      }
    }
  }

  // Rows [first, first + count) of the sequence as one step.
  std::vector<float> run(int64_t first, int64_t count, ThreadPool* threads) {
    const auto num_pages = static_cast<int64_t>(pages.size());
    std::vector<float> out(static_cast<size_t>(count * setup.heads * setup.d));
    const PagedRows rows{0, static_cast<int32_t>(count), static_cast<int32_t>(first), pages};
    const AttentionArgs args{.q = {q.data() + first * setup.heads * setup.d, DType::f32, {count, setup.heads, setup.d}},
                             .k_pages = {k.data(), setup.cache, {num_pages, setup.kv_heads, setup.d, kPageTokens}},
                             .v_pages = {v.data(), setup.cache, {num_pages, setup.kv_heads, kPageTokens, setup.d}},
                             .out = {out.data(), DType::f32, {count, setup.heads * setup.d}},
                             .sequences = {&rows, 1},
                             .window = setup.window};
    threads ? cpu::attention(args, *threads) : cpu::attention_plain(args);
    return out;
  }
};

class AttentionSetups : public testing::TestWithParam<Setup> {};

TEST_P(AttentionSetups, FastAgreesWithThePlainTwin) {
  ThreadPool threads(2);
  Fixture fixture(GetParam(), 75);
  const auto want = fixture.run(0, 75, nullptr), got = fixture.run(0, 75, &threads);
  // Values are averages of numbers in [-1, 1]; scores of d terms each err by at most d * eps * d, and exp turns that into a relative error.
  const float d = static_cast<float>(GetParam().d), bound = 4 * d * d * 0x1p-23f;
  for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(got[i], want[i], bound) << i;
}

TEST_P(AttentionSetups, ARowsBitsDoNotDependOnTheCut) {
  ThreadPool threads(2);
  Fixture fixture(GetParam(), 75);
  const auto all = fixture.run(0, 75, &threads);
  const int64_t row = GetParam().heads * GetParam().d;
  for (const auto& [first, count] : std::vector<std::pair<int64_t, int64_t>>{{0, 1}, {74, 1}, {33, 1}, {0, 33}, {33, 42}, {5, 9}}) {
    const auto part = fixture.run(first, count, &threads);
    ASSERT_EQ(std::memcmp(part.data(), all.data() + first * row, part.size() * 4), 0) << first << " + " << count;
  }
}

INSTANTIATE_TEST_SUITE_P(All, AttentionSetups,
                         testing::Values(Setup{4, 2, 16, DType::f32, 32}, Setup{4, 1, 64, DType::bf16, 0}, Setup{2, 1, 128, DType::e4m3, 0}, Setup{2, 2, 64, DType::e4m3, 1},
                                         Setup{2, 1, 512, DType::bf16, 48}, Setup{3, 3, 30, DType::f32, 17}));

TEST(AttentionByHand, TwoKeysWithEqualScoresAverageTheirValues) {
  std::vector<float> q{0, 0, 5, 5}, k(2 * kPageTokens), v(2 * kPageTokens), out(4);
  v[0] = 1, v[1] = 2, v[2] = 3, v[3] = 6;  // values (1, 2) and (3, 6); keys are zero
  const std::vector<int32_t> pages{0};
  const PagedRows rows{0, 2, 0, pages};
  ThreadPool threads(1);
  cpu::attention({.q = {q.data(), DType::f32, {2, 1, 2}}, .k_pages = {k.data(), DType::f32, {1, 1, 2, kPageTokens}}, .v_pages = {v.data(), DType::f32, {1, 1, kPageTokens, 2}},
                  .out = {out.data(), DType::f32, {2, 2}}, .sequences = {&rows, 1}, .window = 0}, threads);
  EXPECT_EQ(out, (std::vector<float>{1, 2, 2, 4}));
}
}  // namespace
}  // namespace nibble
