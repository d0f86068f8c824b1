// The CUDA backend's two attention kernels against each other, bit for bit. Skipped where no GPU is.
#include <gtest/gtest.h>

#include <algorithm>
#include <climits>
#include <cstring>
#include <numeric>

#include "kernels/twin_test_kit.h"

namespace nibble {
namespace {
struct Kernels {
  int64_t heads, kv_heads, d;
  DType cache;
  int32_t window;
};
class TwinAttentionKernels : public testing::TestWithParam<Kernels> {};

constexpr int64_t kStepRows = 1536;

// Three sequences: a long one in chunks, and beside its first two chunks a whole one of 300 rows and one of 7. Queries, keys and values pass the norms alone.
struct Sequences {
  Kernels h;
  int64_t tokens;
  std::vector<float> q, k, v;
  std::vector<bf16> ones;
  std::vector<int32_t> pages[3];

  Sequences(const Kernels& kernels, int64_t n) : h(kernels), tokens(n), ones(static_cast<size_t>(kernels.d), to_bf16(0.3f)) {
    Random random{static_cast<uint64_t>(h.d + h.heads)};
    q = random.floats(n * h.heads * h.d), k = random.floats(n * h.kv_heads * h.d), v = random.floats(n * h.kv_heads * h.d);
    const auto long_pages = static_cast<int32_t>((n + kPageTokens - 1) / kPageTokens);
    for (int32_t i = 0; i < long_pages; ++i) pages[0].push_back(i % 2 == 0 ? i / 2 : long_pages - 1 - i / 2);
    pages[1].resize(19), pages[2].resize(1);
    std::iota(pages[1].begin(), pages[1].end(), long_pages);
    pages[2][0] = long_pages + 19;
  }

  // The outputs of all rows, a sequence after the other. Steps of few rows have them so many times, as sequences that share their pages; the last one's outputs count.
  std::vector<float> attend(const std::vector<int64_t>& cuts, int32_t wide_attention_rows, int copies = 1) const {
    const std::unique_ptr<Backend> b = make_cuda_backend({.max_rows = kStepRows, .record = false, .wide_attention_rows = wide_attention_rows});
    const int64_t num_pages = pages[2][0] + 1, width = h.heads * h.d, kv_width = h.kv_heads * h.d;
    const Tensor k_pages = b->allocate(h.cache, {num_pages, h.kv_heads, h.d, kPageTokens}, "test"), v_pages = b->allocate(h.cache, {num_pages, h.kv_heads, kPageTokens, h.d}, "test");
    const Tensor cos = b->allocate(DType::f32, {kStepRows, 8}, "test"), sin = b->allocate(DType::f32, {kStepRows, 8}, "test");
    const Tensor tq = b->allocate(DType::f32, {kStepRows, h.heads, h.d}, "test"), tk = b->allocate(DType::f32, {kStepRows, h.kv_heads, h.d}, "test");
    const Tensor tv = b->allocate(DType::f32, {kStepRows, h.kv_heads, h.d}, "test"), out = b->allocate(DType::bf16, {kStepRows, width}, "test");
    const Tensor norm{const_cast<bf16*>(ones.data()), DType::bf16, {h.d}};
    const std::vector<float> frequencies(8, 0.01f);
    std::vector<float> outs[4];
    int64_t at = 0;
    for (size_t c = 0; c <= cuts.size(); ++c) {
      const int64_t end = c < cuts.size() ? cuts[c] : tokens;
      std::vector<PagedRows> sequences;
      int32_t rows = 0;
      const auto add = [&](size_t which, int64_t count, int64_t first) {
        sequences.push_back({rows, static_cast<int32_t>(count), static_cast<int32_t>(first), pages[which]});
        rows += static_cast<int32_t>(count);
      };
      std::vector<size_t> who;
      if (c == 1) add(2, 7, 0), who.push_back(2);
      for (int copy = 1; copy < copies && c > 1 && end - at <= 8; ++copy) add(0, end - at, at), who.push_back(3);
      add(0, end - at, at), who.push_back(0);
      if (c == 0) add(1, 300, 0), who.push_back(1);
      const auto part = [&](const std::vector<float>& all, int64_t row_width) {
        std::vector<float> x;
        for (const PagedRows& s : sequences) x.insert(x.end(), all.begin() + s.first_position * row_width, all.begin() + (s.first_position + s.num_rows) * row_width);
        return x;
      };
      b->upload(part(q, width).data(), {tq.data, DType::f32, {rows, width}});
      b->upload(part(k, kv_width).data(), {tk.data, DType::f32, {rows, kv_width}});
      b->upload(part(v, kv_width).data(), {tv.data, DType::f32, {rows, kv_width}});
      const std::vector<int32_t> ids(static_cast<size_t>(rows), 0);
      const std::span<const PagedRows> all = sequences, none;
      const auto group = static_cast<int32_t>(h.heads / h.kv_heads);
      const StepPlan plan{.ids = ids, .full_rows = h.window ? none : all, .sliding_rows = h.window ? all : none, .logit_rows = {}, .full_group = group, .sliding_group = group,
                          .sliding_window = h.window};
      b->run_step(plan, [&](int64_t padded, int64_t) {
        const Tensor sq{tq.data, DType::f32, {padded, h.heads, h.d}}, sk{tk.data, DType::f32, {padded, h.kv_heads, h.d}}, sv{tv.data, DType::f32, {padded, h.kv_heads, h.d}};
        const RotaryTable table{{cos.data, DType::f32, {padded, 8}}, {sin.data, DType::f32, {padded, 8}}};
        b->rotary({.frequencies = frequencies, .sequences = sequences, .table = table});
        b->prepare_and_attend(QkvPrepareArgs{.q = sq, .k = sk, .v = sv, .q_norm = norm, .k_norm = norm, .rotary = table, .k_pages = k_pages, .v_pages = v_pages, .sequences = sequences},
                              {.q = sq, .k_pages = k_pages, .v_pages = v_pages, .out = {out.data, DType::bf16, {padded, width}}, .sequences = sequences, .window = h.window});
      });
      const std::vector<float> got = get(*b, {out.data, DType::bf16, {rows, width}});
      for (size_t i = 0; i < who.size(); ++i) {
        const PagedRows& s = sequences[i];
        outs[who[i]].insert(outs[who[i]].end(), got.begin() + s.first_row * width, got.begin() + (s.first_row + s.num_rows) * width);
      }
      at = end;
    }
    for (int i : {1, 2}) outs[0].insert(outs[0].end(), outs[i].begin(), outs[i].end());
    return outs[0];
  }
};

// Chunks that begin and end inside pages and tiles, of one row to more than fill the device; runs of splits walked by one CTA and shared by several; steps in
// which both kernels work.
TEST_P(TwinAttentionKernels, GiveTheSameBits) {
  try {
    make_cuda_backend({.max_rows = 1, .record = false});
  } catch (const Error& error) {
    GTEST_SKIP() << error.message;
  }
  const Sequences sequences(GetParam(), 2700);
  const std::vector<float> narrow = sequences.attend({500, 1300, 2100}, INT_MAX);
  for (const float x : narrow) ASSERT_TRUE(std::isfinite(x));
  struct Cut {
    std::vector<int64_t> at;
    int32_t wide_attention_rows;
    int copies = 1;
  };
  std::vector<Cut> cuts{{{500, 1300, 2100}, 1}, {{1200, 2600}, 48}, {{1, 65, 383, 384, 1400, 2690}, 1}, {{1031, 1047, 1063, 2100}, 301}};
  // Single rows and verify steps, within the window and beyond it, over the ends of pages and splits, in so many sequences that clusters of every size come up.
  for (const int copies : {1, 6, 12, 40}) cuts.push_back({{62, 63, 64, 65, 71, 76, 500, 501, 1020, 1022, 1030, 1400, 1401, 2046, 2053, 2060, 2061, 2400, 2401}, 48, copies});
  for (const Cut& cut : cuts) {
    const std::vector<float> wide = sequences.attend(cut.at, cut.wide_attention_rows, cut.copies);
    ASSERT_EQ(wide.size(), narrow.size());
    for (size_t i = 0; i < wide.size(); ++i) {
      const auto width = static_cast<size_t>(sequences.h.heads * sequences.h.d);
      ASSERT_EQ(wide[i], narrow[i]) << "first cut " << cut.at[0] << ", wide from " << cut.wide_attention_rows << ", " << cut.copies << " copies: row " << i / width << ", column " << i % width;
    }
  }
}
// So long a context that a row's splits are folded into runs by a kernel of their own; many rows fold them in registers.
TEST(TwinAttentionLong, OneRowAndManySeeALongContextAlike) {
  try {
    make_cuda_backend({.max_rows = 1, .record = false});
  } catch (const Error& error) {
    GTEST_SKIP() << error.message;
  }
  const Sequences sequences({2, 1, 64, DType::bf16, 0}, 17500);
  std::vector<int64_t> cuts;
  for (int64_t at = 1100; at < sequences.tokens; at += 1100) cuts.push_back(at);
  const std::vector<float> many = sequences.attend(cuts, INT_MAX);
  cuts.erase(std::remove_if(cuts.begin(), cuts.end(), [](int64_t at) { return at > 16500; }), cuts.end());
  for (const int64_t at : {17487, 17488, 17489, 17496}) cuts.push_back(at);
  const std::vector<float> few = sequences.attend(cuts, INT_MAX);
  ASSERT_EQ(few.size(), many.size());
  for (size_t i = 0; i < few.size(); ++i) ASSERT_EQ(few[i], many[i]) << "row " << i / 128 << ", column " << i % 128;
}

INSTANTIATE_TEST_SUITE_P(All, TwinAttentionKernels,
                         testing::Values(Kernels{16, 8, 256, DType::e4m3, 1024}, Kernels{16, 8, 256, DType::bf16, 1024}, Kernels{16, 8, 256, DType::e4m3, 100}, Kernels{4, 4, 256, DType::bf16, 512},
                                         Kernels{16, 1, 256, DType::e4m3, 1024}, Kernels{8, 1, 256, DType::bf16, 0}, Kernels{4, 2, 256, DType::e4m3, 0}, Kernels{16, 1, 512, DType::e4m3, 0},
                                         Kernels{16, 1, 512, DType::bf16, 0}, Kernels{4, 2, 512, DType::e4m3, 0}, Kernels{2, 2, 512, DType::bf16, 0}));
}  // namespace
}  // namespace nibble
