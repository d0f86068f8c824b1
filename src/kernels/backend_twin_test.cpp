// The CUDA backend's ops against the CPU's, on the same random inputs. Skipped where no GPU is.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "base/thread_pool.h"
#include "kernels/twin_test_kit.h"

namespace nibble {
namespace {
enum class Format { bf16, nvfp4, fp8 };
struct OwnedWeight {
  std::vector<uint8_t> codes, block_scales;
  std::vector<bf16> plain;
  std::vector<float> scales;
  LinearWeight weight;
  OwnedWeight(Format format, int64_t n, int64_t k, uint64_t seed) {
    Random random{seed};
    if (format == Format::bf16) {
      plain = random.halves(n * k);
      weight = Bf16Weight{{plain.data(), DType::bf16, {n, k}}};
    } else if (format == Format::nvfp4) {
      for (int64_t i = 0; i < n * k / 2; ++i) codes.push_back(static_cast<uint8_t>(random.bits()));
      for (int64_t i = 0; i < n * k / 16; ++i) block_scales.push_back(static_cast<uint8_t>(random.bits() % 127));  // every positive code, zero and subnormals too
      weight = Nvfp4Weight{{codes.data(), DType::u8, {n, k / 2}}, {block_scales.data(), DType::e4m3, {n, k / 16}}, 0.01f, 0.0f};
    } else {
      const int64_t rows = (n + 127) / 128, cols = (k + 127) / 128;
      for (int64_t i = 0; i < n * k; ++i) {
        const auto code = static_cast<uint8_t>(random.bits());
        codes.push_back((code & 127) == 127 ? 0 : code);
      }
      for (int64_t i = 0; i < rows * cols; ++i) scales.push_back(0.001f + uniform_float(random.bits()));
      weight = Fp8BlockWeight{{codes.data(), DType::e4m3, {n, k}}, {scales.data(), DType::f32, {rows, cols}}};
    }
  }
};

struct Case {
  Format format;
  int64_t n, k;
};
class TwinLinear : public testing::TestWithParam<Case> {};

// The bound of two orders of a K-term f32 sum, K * eps * sum |a_i b_i|, doubled: tensor cores truncate when they align their sixteen products.
// And a row's bits do not depend on the number of rows, through both kernels and all row tiles.
TEST_P(TwinLinear, EveryNumberOfRowsIsWithinTheBoundOfTheCpuAndHasTheSameBits) {
  NB_TWINS(twins);
  const auto [format, n, k] = GetParam();
  const OwnedWeight owned(format, n, k, 7);
  const auto on_cpu = twins.cpu->prepare_linear(owned.weight, ActivationQuant::none), on_cuda = twins.cuda->prepare_linear(owned.weight, ActivationQuant::none);
  constexpr int64_t kRows = 200;
  const std::vector<bf16> x = Random{11}.halves(kRows * k);
  const Tensor out_cpu = twins.cpu->allocate(DType::f32, {kRows, n}, "test");
  twins.cpu->linear(*on_cpu, put(*twins.cpu, x, {kRows, k}), out_cpu);
  const std::vector<float> want = get(*twins.cpu, out_cpu);
  const float w_max = format == Format::bf16 ? 1.0f : format == Format::nvfp4 ? 6.0f * 448.0f * 0.01f : 448.0f * 1.001f;
  std::vector<float> all;
  for (const int64_t rows : {200, 1, 2, 5, 8, 9, 16, 17, 31, 33, 64, 65, 130}) {
    const Tensor out = twins.cuda->allocate(DType::f32, {rows, n}, "test");
    const std::vector<float> poison(static_cast<size_t>(rows * n), NAN);
    twins.cuda->upload(poison.data(), out);
    twins.cuda->linear(*on_cuda, put(*twins.cuda, std::vector<bf16>(x.end() - rows * k, x.end()), {rows, k}), out);
    const std::vector<float> got = get(*twins.cuda, out);
    if (all.empty()) all = got;
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t full_row = kRows - rows + row;
      float x_sum = 0.0f;
      for (int64_t i = 0; i < k; ++i) x_sum += std::fabs(to_float(x[static_cast<size_t>(full_row * k + i)]));
      const float bound = static_cast<float>(k) * 0x1p-22f * x_sum * w_max;
      for (int64_t j = 0; j < n; ++j) {
        const float value = got[static_cast<size_t>(row * n + j)];
        ASSERT_NEAR(value, want[static_cast<size_t>(full_row * n + j)], bound) << rows << " rows, row " << row << ", output " << j;
        ASSERT_EQ(value, all[static_cast<size_t>(full_row * n + j)]) << "bits: " << rows << " rows, row " << row << ", output " << j;
      }
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Bf16, TwinLinear, testing::Values(Case{Format::bf16, 3, 64}, Case{Format::bf16, 65, 72}, Case{Format::bf16, 130, 2304}, Case{Format::bf16, 384, 4096}, Case{Format::bf16, 2176, 8192}, Case{Format::bf16, 8192, 3840}));
INSTANTIATE_TEST_SUITE_P(Nvfp4, TwinLinear, testing::Values(Case{Format::nvfp4, 3, 64}, Case{Format::nvfp4, 65, 144}, Case{Format::nvfp4, 130, 2304}, Case{Format::nvfp4, 384, 15360}, Case{Format::nvfp4, 2176, 15360}, Case{Format::nvfp4, 6016, 3840}));
INSTANTIATE_TEST_SUITE_P(Fp8, TwinLinear, testing::Values(Case{Format::fp8, 3, 64}, Case{Format::fp8, 136, 144}, Case{Format::fp8, 130, 2304}, Case{Format::fp8, 384, 4096}, Case{Format::fp8, 2176, 8192}));

TEST_P(TwinLinear, TheGateOfTwoLayersIsTheirGeluProduct) {
  NB_TWINS(twins);
  const auto [format, n, k] = GetParam();
  const OwnedWeight gate(format, n, k, 1), up(format, n, k, 2);
  // Small inputs: gelu stays where it bends.
  std::vector<bf16> x = Random{3}.halves(100 * k);
  const float scale = 1.0f / (static_cast<float>(k) * (format == Format::bf16 ? 0.02f : 4.0f));
  for (bf16& v : x) v = to_bf16(to_float(v) * scale);
  std::vector<float> want, rows_want;
  for (Backend* backend : {twins.cpu.get(), twins.cuda.get()}) {
    const auto g = backend->prepare_linear(gate.weight, ActivationQuant::none), u = backend->prepare_linear(up.weight, ActivationQuant::none);
    std::vector<float> all;
    for (const int64_t rows : {100, 1, 7, 20, 50}) {
      const Tensor out = backend->allocate(DType::bf16, {rows, n}, "test"), a = backend->allocate(DType::f32, {rows, n}, "test"), b = backend->allocate(DType::f32, {rows, n}, "test");
      backend->gated_linear(*g, *u, put(*backend, std::vector<bf16>(x.begin(), x.begin() + rows * k), {rows, k}), a, b, out);
      const std::vector<float> got = get(*backend, out);
      if (all.empty()) all = got;
      ASSERT_EQ(std::memcmp(got.data(), all.data(), got.size() * 4), 0) << rows << " rows";
    }
    if (want.empty()) {
      want = all;
    } else {
      float largest = 0;
      for (const float v : want) largest = std::max(largest, std::fabs(v));
      expect_close(all, want, largest * 0x1p-9f, 0x1p-7f, "gate");
    }
  }
}

TEST(TwinNorms, NormsResidualsGatesAndCapsAgree) {
  NB_TWINS(twins);
  for (const int64_t hidden : {64, 256, 3840}) {
    const int64_t rows = 5;
    Random random{static_cast<uint64_t>(hidden)};
    const auto x = random.floats(rows * hidden), residual = random.floats(rows * hidden), logits = random.floats(rows * hidden);
    const auto weight = random.halves(hidden), next = random.halves(hidden);
    const Tensor w{const_cast<bf16*>(weight.data()), DType::bf16, {hidden}}, w_next{const_cast<bf16*>(next.data()), DType::bf16, {hidden}};
    std::vector<std::vector<float>> results[2];
    for (int i = 0; i < 2; ++i) {
      Backend& b = i ? *twins.cuda : *twins.cpu;
      const Tensor tx = put(b, x, {rows, hidden}), tr = put(b, residual, {rows, hidden}), out = b.allocate(DType::bf16, {rows, hidden}, "test");
      b.rms_norm({.x = tx, .weight = w, .out = out});
      results[i].push_back(get(b, out));
      b.rms_norm_add({.x = tx, .weight = w, .residual = tr, .scale = 0.7f, .next_weight = w_next, .out = out});
      results[i].push_back(get(b, tr));
      results[i].push_back(get(b, out));
      b.gelu_gate({.gate = tx, .up = tr, .out = out});
      results[i].push_back(get(b, out));
      const Tensor tl = put(b, logits, {rows, hidden});
      b.softcap(tl, 0.5f);
      results[i].push_back(get(b, tl));
    }
    // A bf16 result may round to the neighbour: 2^-8.
    for (size_t r = 0; r < results[0].size(); ++r) expect_close(results[1][r], results[0][r], 1e-5f, 0x1p-7f, "result " + std::to_string(r) + " of hidden " + std::to_string(hidden));
  }
}

struct Heads {
  int64_t heads, kv_heads, d, pairs;
  DType cache;
  int32_t window;
};
class TwinAttention : public testing::TestWithParam<Heads> {};

// Two sequences, a long one in chunks and a short one, then single steps. The GPU rounds queries and probabilities to bf16: with norms of 1/4 scores move by
// some hundredths at most, and the outputs, means of values near 1, by less. A row's bits do not depend on the cut.
TEST_P(TwinAttention, PreparedAndAttendedRowsAgreeAndCutsDoNotMatter) {
  NB_TWINS(twins);
  const Heads h = GetParam();
  const int64_t tokens = 700, rows_short = 40;
  Random random{static_cast<uint64_t>(h.d)};
  const auto q = random.floats(tokens * h.heads * h.d), k = random.floats(tokens * h.kv_heads * h.d), v = random.floats(tokens * h.kv_heads * h.d);
  std::vector<bf16> q_norm = random.halves(h.d), k_norm = random.halves(h.d);
  for (auto* norm : {&q_norm, &k_norm}) {
    for (bf16& x : *norm) x = to_bf16(to_float(x) * 0.5f);
  }
  const Tensor qn{q_norm.data(), DType::bf16, {h.d}}, kn{k_norm.data(), DType::bf16, {h.d}};
  std::vector<float> frequencies;
  for (int64_t p = 0; p < h.pairs; ++p) frequencies.push_back(std::pow(10000.0f, -2.0f * static_cast<float>(p) / static_cast<float>(h.d)));
  const int32_t num_pages = 64;
  std::vector<int32_t> long_pages(44), short_pages(3);
  for (int32_t i = 0; i < 44; ++i) long_pages[static_cast<size_t>(i)] = (i * 5 + 7) % 44;
  std::iota(short_pages.begin(), short_pages.end(), 50);

  const auto run = [&](Backend& b, const std::vector<int64_t>& cuts) {
    const Tensor k_pages = b.allocate(h.cache, {num_pages, h.kv_heads, h.d, kPageTokens}, "test"), v_pages = b.allocate(h.cache, {num_pages, h.kv_heads, kPageTokens, h.d}, "test");
    const Tensor cos = b.allocate(DType::f32, {kMaxRows, h.pairs}, "test"), sin = b.allocate(DType::f32, {kMaxRows, h.pairs}, "test");
    std::vector<float> outs;
    int64_t at = 0;
    for (size_t c = 0; c <= cuts.size(); ++c) {
      const int64_t end = c < cuts.size() ? cuts[c] : tokens, n = end - at, extra = c == 0 ? rows_short : 0, rows = n + extra;
      std::vector<PagedRows> sequences{{0, static_cast<int32_t>(n), static_cast<int32_t>(at), long_pages}};
      if (extra) sequences.push_back({static_cast<int32_t>(n), static_cast<int32_t>(extra), 0, short_pages});
      const auto part = [&](const std::vector<float>& all, int64_t width) {
        std::vector<float> x(all.begin() + at * width, all.begin() + end * width);
        if (extra) x.insert(x.end(), all.begin(), all.begin() + extra * width);
        return x;
      };
      const std::vector<int32_t> ids(static_cast<size_t>(rows), 0);
      std::vector<PagedRows> none;
      const StepPlan plan{.ids = ids, .full_rows = h.window ? std::span<const PagedRows>(none) : sequences, .sliding_rows = h.window ? sequences : std::span<const PagedRows>(none),
                          .logit_rows = {}, .full_group = static_cast<int32_t>(h.heads / h.kv_heads), .sliding_group = static_cast<int32_t>(h.heads / h.kv_heads), .sliding_window = h.window};
      const Tensor tq = b.allocate(DType::f32, {kMaxRows, h.heads, h.d}, "test"), tk = b.allocate(DType::f32, {kMaxRows, h.kv_heads, h.d}, "test"), tv = b.allocate(DType::f32, {kMaxRows, h.kv_heads, h.d}, "test");
      const Tensor out = b.allocate(DType::bf16, {kMaxRows, h.heads * h.d}, "test");
      b.upload(part(q, h.heads * h.d).data(), {tq.data, DType::f32, {rows, h.heads, h.d}});
      b.upload(part(k, h.kv_heads * h.d).data(), {tk.data, DType::f32, {rows, h.kv_heads, h.d}});
      b.upload(part(v, h.kv_heads * h.d).data(), {tv.data, DType::f32, {rows, h.kv_heads, h.d}});
      b.run_step(plan, [&](int64_t padded, int64_t) {
        const Tensor sq{tq.data, DType::f32, {padded, h.heads, h.d}}, sk{tk.data, DType::f32, {padded, h.kv_heads, h.d}}, sv{tv.data, DType::f32, {padded, h.kv_heads, h.d}};
        const RotaryTable table{{cos.data, DType::f32, {padded, h.pairs}}, {sin.data, DType::f32, {padded, h.pairs}}};
        b.rotary({.frequencies = frequencies, .sequences = sequences, .table = table});
        b.prepare_and_attend(QkvPrepareArgs{.q = sq, .k = sk, .v = sv, .q_norm = qn, .k_norm = kn, .rotary = table, .k_pages = k_pages, .v_pages = v_pages, .sequences = sequences},
                             {.q = sq, .k_pages = k_pages, .v_pages = v_pages, .out = {out.data, DType::bf16, {padded, h.heads * h.d}}, .sequences = sequences, .window = h.window});
      });
      const auto got = get(b, {out.data, DType::bf16, {rows, h.heads * h.d}});
      // The short sequence's rows go first.
      outs.insert(c == 0 ? outs.begin() : outs.end(), got.begin() + n * h.heads * h.d, got.end());
      outs.insert(outs.end(), got.begin(), got.begin() + n * h.heads * h.d);
      at = end;
    }
    return outs;
  };
  const std::vector<float> want = run(*twins.cpu, {300}), got = run(*twins.cuda, {300});
  expect_close(got, want, 0.02f, 0.02f, "attention");
  EXPECT_EQ(run(*twins.cuda, {100, 101, 102, 110, 416, 417}), got);
  EXPECT_EQ(run(*twins.cuda, {350, 351, 380, 388}), got);
  EXPECT_EQ(run(*twins.cuda, {460, 461, 480}), got);  // enough tiles that blocks take whole runs of splits
}
INSTANTIATE_TEST_SUITE_P(All, TwinAttention,
                         testing::Values(Heads{4, 2, 16, 8, DType::bf16, 32}, Heads{4, 1, 32, 4, DType::bf16, 0}, Heads{4, 2, 64, 32, DType::e4m3, 128}, Heads{4, 1, 128, 16, DType::e4m3, 0},
                                         Heads{16, 8, 256, 128, DType::bf16, 256}, Heads{16, 8, 256, 128, DType::e4m3, 256}, Heads{16, 1, 512, 64, DType::bf16, 0},
                                         Heads{16, 1, 512, 64, DType::e4m3, 0}));

TEST(TwinCandidates, TheBestOfEditedRowsAreTheSame) {
  NB_TWINS(twins);
  for (const int64_t vocab : {512, 5000, 262144}) {
    const int64_t rows = 3;
    auto x = Random{static_cast<uint64_t>(vocab)}.floats(rows * vocab);
    for (float& v : x) v *= 20.0f;
    x[5] = x[400] = 21.0f;  // a tie
    const std::vector<LogitEdit> edits{{0, 7, 0, 1, 30}, {1, 9, 3, 1.5f, 0}, {2, 11, 0, 1, -INFINITY}};
    const std::vector<float> temperatures{1.0f, 0.7f, 2.0f};
    // The last row allows every third id, and the first one that an edit raises.
    const std::vector<int32_t> masked{0, 2};
    std::vector<uint32_t> masks(static_cast<size_t>(2 * mask_words(vocab)), 0);
    for (int64_t id = 0; id < vocab; ++id) {
      if (id != 400) masks[static_cast<size_t>(id / 32)] |= 1u << (id % 32);
      if (id % 3 == 0) masks[static_cast<size_t>(mask_words(vocab) + id / 32)] |= 1u << (id % 32);
    }
    for (const auto& [count, grammar] : {std::pair{1, false}, {20, false}, {64, false}, {1, true}, {20, true}, {64, true}}) {
      const AllowedIds allowed = grammar ? AllowedIds{masked, masks} : AllowedIds{};
      std::vector<Candidate> ranked[2];
      std::vector<RowSummary> summaries[2];
      for (int i = 0; i < 2; ++i) {
        Backend& b = i ? *twins.cuda : *twins.cpu;
        ranked[i].resize(rows * kMaxCandidates);
        summaries[i].resize(rows);
        b.candidates(put(b, x, {rows, vocab}), edits, allowed, temperatures, count, ranked[i].data(), summaries[i].data());
      }
      for (int64_t row = 0; row < rows; ++row) {
        ASSERT_NEAR(summaries[1][row].highest, summaries[0][row].highest, 1e-5);
        ASSERT_NEAR(summaries[1][row].sum / summaries[0][row].sum, 1.0, 1e-3);  // of 262144 exponentials, added in f32 in two orders
        for (int32_t c = 0; c < count; ++c) ASSERT_EQ(ranked[1][row * kMaxCandidates + c].id, ranked[0][row * kMaxCandidates + c].id) << vocab << " " << count << " " << row << " " << c;
        if (grammar && row == 2) ASSERT_EQ(ranked[0][row * kMaxCandidates + count - 1].id % 3, 0);
      }
    }
  }
}

// Codes, scales and sums of errors, byte for byte: odd sizes, zero blocks, ties, huge and tiny weights.
TEST(TwinQuantizer, SameBytesAndSums) {
  NB_TWINS(twins);
  Random random{91};
  ThreadPool threads(2);
  for (const auto& [rows, cols, scale] : {std::tuple<int64_t, int64_t, float>{3, 16, 1.0f}, {130, 272, 0.05f}, {257, 3840, 0.02f}, {1300, 15360, 0.02f}, {64, 64, 1e-36f}, {64, 64, 1e15f}}) {
    std::vector<bf16> w(static_cast<size_t>(rows * cols));
    for (size_t i = 0; i < w.size(); ++i) {
      float v = random.symmetric() + random.symmetric() + random.symmetric();
      if (i / 16 % 7 == 1) v = std::round(v * 8) / 8;  // ties
      if (i / 16 % 11 == 3) v = v * v * v * v;         // a few large ones
      w[i] = to_bf16(i / 16 % 13 == 5 ? 0.0f : v * scale);
    }
    const Tensor weight{w.data(), DType::bf16, {rows, cols}};
    const float amax = cpu::largest_magnitude(weight, threads);
    for (const ScaleSearch search : {ScaleSearch::max, ScaleSearch::mse}) {
      std::vector<uint8_t> codes[2], scales[2];
      QuantError errors[2];
      for (const bool fp8 : {false, true}) {
        for (int side = 0; side < 2; ++side) {
          const int64_t block_rows = (rows + 127) / 128, block_cols = (cols + 127) / 128;
          codes[side].assign(static_cast<size_t>(fp8 ? rows * cols : rows * cols / 2), 0xee);
          scales[side].assign(static_cast<size_t>(fp8 ? block_rows * block_cols * 4 : rows * cols / 16), 0xee);
          const QuantizeNvfp4Args four{weight, amax, search, {codes[side].data(), DType::u8, {rows, cols / 2}}, {scales[side].data(), DType::e4m3, {rows, cols / 16}}};
          const QuantizeFp8Args eight{weight, search, {codes[side].data(), DType::e4m3, {rows, cols}}, {scales[side].data(), DType::f32, {block_rows, 1, block_cols, 1}}};
          if (side == 0) errors[side] = fp8 ? cpu::quantize_fp8(eight, threads) : cpu::quantize_nvfp4(four, threads);
          if (side == 1) errors[side] = fp8 ? twins.cuda->quantize_fp8(eight) : twins.cuda->quantize_nvfp4(four);
        }
        const auto what = ::testing::Message() << rows << " x " << cols << " " << (fp8 ? "fp8" : "nvfp4") << (search == ScaleSearch::mse ? " mse" : " max");
        EXPECT_EQ(codes[0], codes[1]) << what;
        EXPECT_EQ(scales[0], scales[1]) << what;
        EXPECT_EQ(std::memcmp(&errors[0], &errors[1], sizeof(QuantError)), 0) << what;
      }
    }
  }
}

TEST(TwinRowAmax, IsExact) {
  NB_TWINS(twins);
  Random random{92};
  const auto x = random.halves(300 * 777);
  std::vector<float> want(300), got(300);
  twins.cpu->row_amax(put(*twins.cpu, x, {300, 777}), want.data());
  twins.cuda->row_amax(put(*twins.cuda, x, {300, 777}), got.data());
  EXPECT_EQ(want, got);
}
}  // namespace
}  // namespace nibble
