// The CUDA backend's ops of drafts and media, and of activations in NVFP4, against the CPU's. Skipped where no GPU is.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels/twin_test_kit.h"

namespace nibble {
namespace {
std::vector<int32_t> get_ids(Backend& backend, const Tensor& t) {
  std::vector<int32_t> ids(static_cast<size_t>(t.count()));
  backend.download(t, ids.data());
  return ids;
}

TEST(TwinDraft, InputsOfTheFirstAndOfLaterDraftsHaveTheSameBits) {
  for (const int64_t width : {64, 260, 3840}) {
    NB_TWINS(twins);  // anew: a backend knows a table that never changes by its address
    const int64_t vocab = 700, rows = 5;
    Random random{static_cast<uint64_t>(width)};
    const auto table = random.halves(vocab * width), hidden = random.halves(9 * width);
    const auto state = random.floats(rows * width);
    const std::vector<int32_t> ids{0, 699, 3, 3, 250}, hidden_rows{8, 0, 4, 4, 1}, chosen{1, 2, 698, 5, 0}, page{0};
    std::vector<PagedRows> sequences;
    for (int32_t i = 0; i < rows; ++i) sequences.push_back({i, 1, i, page});
    const Tensor embed{const_cast<bf16*>(table.data()), DType::bf16, {vocab, width}};
    std::vector<float> results[2];
    for (int i = 0; i < 2; ++i) {
      Backend& b = i ? *twins.cuda : *twins.cpu;
      const Tensor th = put(b, hidden, {9, width}), ts = put(b, state, {rows, width}), tc = b.allocate(DType::i32, {rows}, "test"), out = b.allocate(DType::bf16, {2 * rows, 2 * width}, "test");
      b.upload(chosen.data(), tc);
      b.run_step({.ids = ids, .full_rows = sequences, .sliding_rows = sequences, .logit_rows = hidden_rows, .sliding_window = 64}, [&](int64_t padded, int64_t) {
        ASSERT_EQ(padded, rows);
        b.draft_input({.ids = ids, .chosen = {}, .table = embed, .scale = 62.0f, .hidden = th, .hidden_rows = hidden_rows, .out = out.slice_rows(0, rows)});
        b.draft_input({.ids = {}, .chosen = tc, .table = embed, .scale = 62.0f, .hidden = ts, .hidden_rows = {}, .out = out.slice_rows(rows, rows)});
      });
      results[i] = get(b, out);
    }
    EXPECT_EQ(results[0], results[1]) << width;
  }
}

TEST(TwinDraft, TheLargestLogitIsTheFirstOfTheLargest) {
  NB_TWINS(twins);
  for (const int64_t vocab : {5, 512, 4097, 262144}) {
    for (const int64_t rows : {1, 3, 40, 1}) {  // scratch serves any number of rows, and again
      auto x = Random{static_cast<uint64_t>(vocab + rows)}.floats(rows * vocab);
      const auto at = [&](int64_t row, int64_t id) -> float& { return x[static_cast<size_t>(row * vocab + id)]; };
      at(0, vocab - 1) = at(0, vocab / 2) = 3.0f;  // a tie, across parts where there are several
      if (rows > 2) {
        for (int64_t id = 0; id < vocab; ++id) at(1, id) = -std::numeric_limits<float>::infinity(), at(2, id) = id == 2 ? -0.0f : id == 4 ? 0.0f : -1.0f;
      }
      std::vector<int32_t> ids[2];
      for (int i = 0; i < 2; ++i) {
        Backend& b = i ? *twins.cuda : *twins.cpu;
        const Tensor chosen = b.allocate(DType::i32, {rows}, "test"), logits = put(b, x, {rows, vocab});
        b.argmax(logits, chosen);
        b.argmax(logits, chosen);
        ids[i] = get_ids(b, chosen);
      }
      EXPECT_EQ(ids[1], ids[0]) << vocab << " logits, " << rows << " rows";
      EXPECT_EQ(ids[1][0], vocab / 2);
      if (rows > 2) EXPECT_EQ(ids[1][2], 2);
    }
  }
}

struct Heads {
  int64_t heads, kv_heads, d, pairs;
  DType cache;
  int32_t window;
};

// Pages filled by one step of `tokens` rows, or by several that end at `cuts`; outputs of every row.
struct Pages {
  Backend& b;
  Heads h;
  Tensor k, v, cos, sin, q, kk, vv, out, q_norm, k_norm;
  std::vector<float> frequencies;
  std::vector<int32_t> table;
  std::vector<bf16> norm_values;

  Pages(Backend& backend, const Heads& heads, int64_t tokens) : b(backend), h(heads) {
    const int64_t num_pages = (tokens + kPageTokens - 1) / kPageTokens;
    for (int64_t i = 0; i < num_pages; ++i) table.push_back(static_cast<int32_t>(num_pages - 1 - i));
    for (int64_t p = 0; p < h.pairs; ++p) frequencies.push_back(std::pow(10000.0f, -2.0f * static_cast<float>(p) / static_cast<float>(h.d)));
    norm_values = Random{5}.halves(2 * h.d);
    for (bf16& x : norm_values) x = to_bf16(to_float(x) * 0.5f);
    q_norm = {norm_values.data(), DType::bf16, {h.d}};
    k_norm = {norm_values.data() + h.d, DType::bf16, {h.d}};
    k = b.allocate(h.cache, {num_pages, h.kv_heads, h.d, kPageTokens}, "test");
    v = b.allocate(h.cache, {num_pages, h.kv_heads, kPageTokens, h.d}, "test");
    cos = b.allocate(DType::f32, {kMaxRows, h.pairs}, "test");
    sin = b.allocate(DType::f32, {kMaxRows, h.pairs}, "test");
    q = b.allocate(DType::f32, {kMaxRows, h.heads, h.d}, "test");
    kk = b.allocate(DType::f32, {kMaxRows, h.kv_heads, h.d}, "test");
    vv = b.allocate(DType::f32, {kMaxRows, h.kv_heads, h.d}, "test");
    out = b.allocate(DType::bf16, {kMaxRows, h.heads * h.d}, "test");
  }

  StepPlan plan(std::span<const int32_t> ids, std::span<const PagedRows> sequences, std::span<const int32_t> last_visible) const {
    const auto group = static_cast<int32_t>(h.heads / h.kv_heads);
    const std::span<const PagedRows> none;
    return {.ids = ids, .full_rows = h.window ? none : sequences, .sliding_rows = h.window ? sequences : none, .logit_rows = {}, .full_group = group, .sliding_group = group,
            .sliding_window = h.window, .last_visible = last_visible};
  }

  // Positions [begin, end) of the values of a whole sequence; last_visible of the whole sequence too, or empty.
  std::vector<float> step(const std::vector<float>& qs, const std::vector<float>& ks, const std::vector<float>& vs, int64_t begin, int64_t end, const std::vector<int32_t>& last_visible = {}) {
    const int64_t rows = end - begin;
    const auto fill = [&](const Tensor& t, const std::vector<float>& from) {
      const int64_t width = t.shape[1] * t.shape[2];
      b.upload(from.data() + begin * width, {t.data, DType::f32, {rows, width}});
    };
    fill(q, qs);
    fill(kk, ks);
    fill(vv, vs);
    const std::vector<PagedRows> sequences{{0, static_cast<int32_t>(rows), static_cast<int32_t>(begin), table}};
    const std::vector<int32_t> ids(static_cast<size_t>(rows), 0);
    const std::vector<int32_t> ahead = last_visible.empty() ? last_visible : std::vector<int32_t>(last_visible.begin() + begin, last_visible.begin() + end);
    b.run_step(plan(ids, sequences, ahead), [&](int64_t padded, int64_t) {
      const Tensor sq{q.data, DType::f32, {padded, h.heads, h.d}}, sk{kk.data, DType::f32, {padded, h.kv_heads, h.d}}, sv{vv.data, DType::f32, {padded, h.kv_heads, h.d}};
      const RotaryTable rotary = fill_rotary(sequences, padded);
      b.qkv_prepare({.q = sq, .k = sk, .v = sv, .q_norm = q_norm, .k_norm = k_norm, .rotary = rotary, .k_pages = k, .v_pages = v, .sequences = sequences});
      b.attention({.q = sq, .k_pages = k, .v_pages = v, .out = {out.data, DType::bf16, {padded, h.heads * h.d}}, .sequences = sequences, .window = h.window, .last_visible = ahead});
    });
    return get(b, {out.data, DType::bf16, {rows, h.heads * h.d}});
  }

  RotaryTable fill_rotary(std::span<const PagedRows> sequences, int64_t rows) {
    const RotaryTable rotary{{cos.data, DType::f32, {rows, h.pairs}}, {sin.data, DType::f32, {rows, h.pairs}}};
    b.rotary({.frequencies = frequencies, .sequences = sequences, .table = rotary});
    return rotary;
  }
};

class TwinFrozenQueries : public testing::TestWithParam<Heads> {};

// Queries of a draft round read pages that others wrote, at positions of their own.
TEST_P(TwinFrozenQueries, AttendToTheSameKeys) {
  NB_TWINS(twins);
  const Heads h = GetParam();
  const int64_t tokens = 300;
  const std::vector<int32_t> positions{299, 255, 16, 0, 130, 299};
  const auto rows = static_cast<int64_t>(positions.size());
  Random random{17};
  const auto q = random.floats(tokens * h.heads * h.d), k = random.floats(tokens * h.kv_heads * h.d), v = random.floats(tokens * h.kv_heads * h.d), frozen = random.floats(rows * h.heads * h.d);
  std::vector<float> results[2];
  for (int i = 0; i < 2; ++i) {
    Backend& b = i ? *twins.cuda : *twins.cpu;
    Pages pages(b, h, tokens);
    pages.step(q, k, v, 0, tokens);
    std::vector<PagedRows> sequences;
    for (int32_t r = 0; r < rows; ++r) sequences.push_back({r, 1, positions[static_cast<size_t>(r)], pages.table});
    const std::vector<int32_t> ids(static_cast<size_t>(rows), 0);
    b.upload(frozen.data(), {pages.q.data, DType::f32, {rows, h.heads * h.d}});
    b.run_step(pages.plan(ids, sequences, {}), [&](int64_t padded, int64_t) {
      ASSERT_EQ(padded, rows);
      const Tensor sq{pages.q.data, DType::f32, {padded, h.heads, h.d}};
      b.prepare_and_attend(QueryPrepareArgs{.q = sq, .q_norm = pages.q_norm, .rotary = pages.fill_rotary(sequences, padded)},
                           {.q = sq, .k_pages = pages.k, .v_pages = pages.v, .out = {pages.out.data, DType::bf16, {padded, h.heads * h.d}}, .sequences = sequences, .window = h.window});
    });
    results[i] = get(b, {pages.out.data, DType::bf16, {rows, h.heads * h.d}});
  }
  expect_close(results[1], results[0], 0.02f, 0.02f, "attention");
}
INSTANTIATE_TEST_SUITE_P(All, TwinFrozenQueries,
                         testing::Values(Heads{4, 2, 16, 8, DType::bf16, 32}, Heads{4, 1, 32, 4, DType::e4m3, 0}, Heads{16, 8, 256, 128, DType::e4m3, 256}, Heads{16, 1, 512, 64, DType::bf16, 0}));

class TwinPictures : public testing::TestWithParam<Heads> {};

// Rows of a picture see it whole. Cuts beside pictures, or behind rows that are in the pages already, do not change a bit.
TEST_P(TwinPictures, SeeThemselvesWholeHoweverTheStepsAreCut) {
  NB_TWINS(twins);
  const Heads h = GetParam();
  const int64_t tokens = 500;
  Random random{23};
  const auto q = random.floats(tokens * h.heads * h.d), k = random.floats(tokens * h.kv_heads * h.d), v = random.floats(tokens * h.kv_heads * h.d);
  std::vector<int32_t> last_visible(tokens);
  std::iota(last_visible.begin(), last_visible.end(), 0);
  for (const auto& [begin, end] : {std::pair{40, 180}, {181, 182}, {190, 490}}) std::fill(last_visible.begin() + begin, last_visible.begin() + end, end - 1);
  const auto run = [&](Backend& b, const std::vector<int64_t>& cuts) {
    Pages pages(b, h, tokens);
    std::vector<float> all;
    int64_t at = 0;
    for (size_t c = 0; c <= cuts.size(); ++c) {
      const int64_t end = c < cuts.size() ? cuts[c] : tokens;
      const auto part = pages.step(q, k, v, at, end, last_visible);
      all.insert(all.end(), part.begin(), part.end());
      at = end;
    }
    return all;
  };
  const std::vector<float> want = run(*twins.cpu, {}), got = run(*twins.cuda, {});
  expect_close(got, want, 0.02f, 0.02f, "attention");
  for (const auto& cuts : {std::vector<int64_t>{40}, {180}, {40, 180}, {7, 185, 190, 495}}) EXPECT_EQ(run(*twins.cuda, cuts), got) << "cut at " << cuts[0];
  // Causally the rows of pictures would be others.
  Pages causal(*twins.cuda, h, tokens);
  const std::vector<float> other = causal.step(q, k, v, 0, tokens);
  const auto row = static_cast<size_t>(h.heads * h.d);
  EXPECT_EQ(std::memcmp(other.data(), got.data(), 40 * row * 4), 0);
  EXPECT_NE(std::memcmp(other.data() + 40 * row, got.data() + 40 * row, row * 4), 0);
}
INSTANTIATE_TEST_SUITE_P(All, TwinPictures, testing::Values(Heads{4, 2, 16, 8, DType::bf16, 32}, Heads{4, 2, 64, 32, DType::e4m3, 128}, Heads{16, 8, 256, 128, DType::e4m3, 256}));

// A bf16 result may round to the neighbour: 2^-8.
TEST(TwinMedia, NormsOfPatchesPositionsAndFramesAgree) {
  NB_TWINS(twins);
  struct Width {
    int64_t pixels, width, samples;
  };
  for (const Width& w : {Width{192, 64, 40}, Width{6912, 3840, 640}}) {
    const int64_t rows = 7, places = 20;
    Random random{static_cast<uint64_t>(w.width)};
    std::vector<uint8_t> pixels(static_cast<size_t>(rows * w.pixels));
    for (uint8_t& p : pixels) p = static_cast<uint8_t>(random.bits() >> 8);
    std::fill(pixels.begin(), pixels.begin() + w.pixels, uint8_t{77});  // a patch of one colour: its variance is 0
    const auto weights = random.halves(2 * w.pixels), narrow = random.halves(5 * w.width), positions = random.halves(places * 2 * w.width);
    const auto x = random.floats(rows * w.width), samples = random.floats(rows * w.samples);
    const auto vector = [&](const std::vector<bf16>& all, int64_t i, int64_t n) { return Tensor{const_cast<bf16*>(all.data()) + i * n, DType::bf16, {n}}; };
    std::vector<std::vector<float>> results[2];
    for (int i = 0; i < 2; ++i) {
      Backend& b = i ? *twins.cuda : *twins.cpu;
      const Tensor patches = b.allocate(DType::bf16, {rows, w.pixels}, "test"), normed = b.allocate(DType::bf16, {rows, w.width}, "test"), frames = b.allocate(DType::bf16, {rows, w.samples}, "test");
      b.patch_norm({.pixels = pixels, .weight = vector(weights, 0, w.pixels), .bias = vector(weights, 1, w.pixels), .out = patches});
      b.patch_position({.x = put(b, x, {rows, w.width}), .dense_bias = vector(narrow, 0, w.width), .ln_weight = vector(narrow, 1, w.width), .ln_bias = vector(narrow, 2, w.width),
                        .positions = {const_cast<bf16*>(positions.data()), DType::bf16, {places, 2, w.width}}, .columns = 3, .first_patch = 4, .norm_weight = vector(narrow, 3, w.width),
                        .norm_bias = vector(narrow, 4, w.width), .out = normed});
      b.frame_norm({.samples = samples, .out = frames});
      for (const Tensor& t : {patches, normed, frames}) results[i].push_back(get(b, t));
    }
    for (size_t r = 0; r < 3; ++r) expect_close(results[1][r], results[0][r], 1e-6f, 0x1p-7f, "result " + std::to_string(r));
  }
}

// A layer whose sums are kept in parts, written into the middle of a tensor.
TEST(TwinLinearInto, WritesItsRowsAndNoOthers) {
  NB_TWINS(twins);
  const int64_t n = 96, k = 4096, rows = 3;
  Random random{2};
  const auto weights = random.halves(n * k), x = random.halves(rows * k);
  const LinearWeight weight = Bf16Weight{{const_cast<bf16*>(weights.data()), DType::bf16, {n, k}}};
  Backend& b = *twins.cuda;
  const auto prepared = b.prepare_linear(weight, ActivationQuant::none);
  const Tensor input = put(b, x, {rows, k}), alone = b.allocate(DType::f32, {rows, n}, "test"), all = put(b, std::vector<float>(static_cast<size_t>((rows + 4) * n), 7.0f), {rows + 4, n});
  b.linear(*prepared, input, alone);
  b.linear_into(*prepared, input, all.slice_rows(2, rows));
  const std::vector<float> want = get(b, alone), got = get(b, all);
  for (int64_t i = 0; i < (rows + 4) * n; ++i) {
    const bool inside = i >= 2 * n && i < (2 + rows) * n;
    ASSERT_EQ(got[static_cast<size_t>(i)], inside ? want[static_cast<size_t>(i - 2 * n)] : 7.0f) << i;
  }
  EXPECT_EQ(get(b, alone), want) << "read twice";
}

// With an identity for weights the layer gives back its rounded inputs: the same bits on both, for values of all sizes.
TEST(TwinActivationQuant, InputsRoundToTheSameNvfp4) {
  NB_TWINS(twins);
  const int64_t k = 256, rows = 100;
  std::vector<uint8_t> codes(static_cast<size_t>(k * k / 2), 0), scales(static_cast<size_t>(k * k / 16), 0x38);  // 1.0
  for (int64_t i = 0; i < k; ++i) codes[static_cast<size_t>(i * k / 2 + i / 2)] = i % 2 ? 0x20 : 0x02;            // 1.0 on the diagonal
  Random random{31};
  std::vector<bf16> x = random.halves(rows * k);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = 0; i < k; ++i) {
      bf16& v = x[static_cast<size_t>(row * k + i)];
      v = to_bf16(std::ldexp(to_float(v), static_cast<int>(row / 3 - 20 + i / 16 % 3)));
    }
  }
  for (const float global : {1.0f, 0.0031f, 0.25f}) {
    const LinearWeight weight = Nvfp4Weight{{codes.data(), DType::u8, {k, k / 2}}, {scales.data(), DType::e4m3, {k, k / 16}}, 1.0f, global};
    std::vector<float> results[2];
    for (int i = 0; i < 2; ++i) {
      Backend& b = i ? *twins.cuda : *twins.cpu;
      const Tensor out = b.allocate(DType::f32, {rows, k}, "test");
      b.linear(*b.prepare_linear(weight, ActivationQuant::nvfp4), put(b, x, {rows, k}), out);
      results[i] = get(b, out);
    }
    EXPECT_EQ(results[1], results[0]) << "input scale " << global;
    EXPECT_GT(*std::max_element(results[1].begin(), results[1].end()), 0.0f);
  }
}
}  // namespace
}  // namespace nibble
