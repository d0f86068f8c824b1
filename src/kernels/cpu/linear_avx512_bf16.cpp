// What bounds it: one row reads every packed byte once, so memory; from about 16 rows the vdpbf16ps units.
//
// A group's inputs are taken in panels that stay in a cache while all rows pass over them: 128 KB of BF16 in the second level; of quantized weights,
// once several rows share the decoding, 16 KB widened to BF16 in the first. Sums wait in memory between panels, unrounded, so the cut does not change a bit.
#include "kernels/cpu/linear_avx512_bf16.h"

#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "base/number_formats.h"

namespace nibble::cpu::avx512_bf16 {
namespace {
constexpr int64_t kPanel = 1024;        // inputs; a multiple of 128
constexpr int64_t kWidenedPanel = 128;  // inputs of a panel of decoded weights; a multiple of 128
constexpr int kVectors = 4;             // of 16 outputs, in a group
// From so many rows on a quantized panel is decoded once and reused by the rows.
constexpr int64_t kWidenRowsFp8 = 13, kWidenRowsNvfp4 = 7;

int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

inline __m512bh as_bh(__m512i x) { return reinterpret_cast<__m512bh>(x); }

inline __m512i broadcast_pair(const uint16_t* x) {
  int32_t pair;
  std::memcpy(&pair, x, 4);
  return _mm512_set1_epi32(pair);
}

// ---- decoders: one vector (16 outputs) of a packed format to pairs of bf16 ----

uint16_t bf16_bits(float x) { return to_bf16(x).bits; }

// NVFP4's codes are decoded 2^60 times too large and its scales 2^120 times too small, so sums lack a factor of 2^60, which the output's factor makes good.
// A scale's bits then need only be moved to where a float has its exponent and mantissa; subnormal scales come out right too. A power of two changes no
// bit, and inputs up to 2^60 keep all sums in the range of a float.
constexpr float kNvfp4Factor = 0x1p60f;

struct Tables {
  alignas(64) uint16_t e2m1[32];   // times kNvfp4Factor; twice, so that the fifth index bit does not matter
  alignas(64) uint8_t e4m3_low[128], e4m3_high[128];
};

const Tables kTables = [] {
  Tables t{};
  for (int i = 0; i < 32; ++i) t.e2m1[i] = bf16_bits(kNvfp4Factor * e2m1_to_float(static_cast<uint8_t>(i & 15)));
  for (int i = 0; i < 128; ++i) {
    const uint16_t bits = bf16_bits(i == 127 ? 0.0f : to_float(e4m3{static_cast<uint8_t>(i)}));
    t.e4m3_low[i] = static_cast<uint8_t>(bits);
    t.e4m3_high[i] = static_cast<uint8_t>(bits >> 8);
  }
  return t;
}();

// 128 codes: word w holds nibbles of pairs 0..3 for (output w / 2, parity w % 2). Look-ups see a word's low five bits.
struct DecodeE2m1 {
  __m512i table = _mm512_load_si512(kTables.e2m1);
  void operator()(const uint8_t* codes, __m512i pairs[4]) const {
    __m512i c = _mm512_loadu_si512(codes);
    asm("" : "+v"(c));  // or it is loaded again for each shift
    pairs[0] = _mm512_permutexvar_epi16(c, table);
    pairs[1] = _mm512_permutexvar_epi16(_mm512_srli_epi16(c, 4), table);
    pairs[2] = _mm512_permutexvar_epi16(_mm512_srli_epi16(c, 8), table);
    pairs[3] = _mm512_permutexvar_epi16(_mm512_srli_epi16(c, 12), table);
  }
};

// The 64 scales of a block, all positive and finite: byte `vector` of word `output` to the exponent and mantissa of a float.
inline __m512 scales_of(__m512i stored, int vector) {
  const __m512i placed = vector < 3 ? _mm512_slli_epi32(stored, 20 - 8 * vector) : _mm512_srli_epi32(stored, 4);
  return _mm512_castsi512_ps(_mm512_and_si512(placed, _mm512_set1_epi32(0x07f00000)));
}

// 64 codes: two pairs of 16 outputs. bf16 needs two bytes a code: both by lookup in the 128 magnitudes, the sign put back, then interleaved.
struct DecodeE4m3 {
  __m512i low0 = _mm512_load_si512(kTables.e4m3_low), low1 = _mm512_load_si512(kTables.e4m3_low + 64);
  __m512i high0 = _mm512_load_si512(kTables.e4m3_high), high1 = _mm512_load_si512(kTables.e4m3_high + 64);
  __m512i sign = _mm512_set1_epi8(static_cast<char>(0x80));
  void operator()(const uint8_t* codes, __m512i pairs[2]) const {
    const __m512i c = _mm512_loadu_si512(codes);
    const __m512i low = _mm512_permutex2var_epi8(low0, c, low1);  // the index's top bit is ignored
    const __m512i magnitude = _mm512_permutex2var_epi8(high0, c, high1);
    const __m512i high = _mm512_ternarylogic_epi32(magnitude, c, sign, 0xf8);  // magnitude | (c & sign)
    pairs[0] = _mm512_unpacklo_epi8(low, high);
    pairs[1] = _mm512_unpackhi_epi8(low, high);
  }
};

// ---- accumulators: `rows` x 64 sums, kept in registers over a panel, in `out` between panels ----

template <int kRows>
struct Sums {
  __m512 v[kRows][kVectors];

  void clear() {
    for (auto& row : v) {
      for (auto& x : row) x = _mm512_setzero_ps();
    }
  }
  void load(const float* sums) {
    for (int r = 0; r < kRows; ++r) {
      for (int c = 0; c < kVectors; ++c) v[r][c] = _mm512_loadu_ps(sums + r * kGroup + c * 16);
    }
  }
  void store(float* sums) const {
    for (int r = 0; r < kRows; ++r) {
      for (int c = 0; c < kVectors; ++c) _mm512_storeu_ps(sums + r * kGroup + c * 16, v[r][c]);
    }
  }
  void dot(int c, __m512i weights, const uint16_t* x, int64_t x_stride) {
    for (int r = 0; r < kRows; ++r) v[r][c] = _mm512_dpbf16_ps(v[r][c], as_bh(weights), as_bh(broadcast_pair(x + r * x_stride)));
  }
};

// A panel of one group: inputs [begin, begin + count), with what it takes to find them.
struct Panel {
  const uint8_t* group;      // the group's packed bytes
  const float* group_scales; // FP8: this group's row of block scales
  int64_t begin, count;
};

// A quantized panel's weights as pairs of bf16, and their scales.
struct alignas(64) Widened {
  uint16_t pairs[kWidenedPanel / 2][kGroup][2];
  float scales[kWidenedPanel / kNvfp4Block][kGroup];
};

constexpr int64_t kBf16PairBytes = kGroup * 4;          // one pair of inputs
constexpr int64_t kFp8QuadBytes = kGroup * 4;           // four inputs
constexpr int64_t kNvfp4BlockBytes = kGroup * 8 + kGroup;  // sixteen inputs: codes, then scales

// One chain over `pairs` pairs of bf16.
template <int kRows>
inline void dot_pairs(Sums<kRows>& sums, const uint16_t* weights, int64_t pairs, const uint16_t* x, int64_t x_stride) {
#pragma GCC unroll 1  // unrolled, the sums of a short chain no longer stay in registers
  for (int64_t p = 0; p < pairs; ++p) {
    __m512i w[kVectors];
    for (int c = 0; c < kVectors; ++c) w[c] = _mm512_loadu_si512(weights + (p * kVectors + c) * 32);
    for (int r = 0; r < kRows; ++r) {
      const __m512bh xr = as_bh(broadcast_pair(x + r * x_stride + p * 2));
      for (int c = 0; c < kVectors; ++c) sums.v[r][c] = _mm512_dpbf16_ps(sums.v[r][c], as_bh(w[c]), xr);
    }
  }
}

template <int kRows>
void panel_bf16(const Panel& panel, const uint16_t* x, int64_t x_stride, Sums<kRows>& total) {
  const auto* weights = reinterpret_cast<const uint16_t*>(panel.group + panel.begin / 2 * kBf16PairBytes);
  dot_pairs(total, weights, panel.count / 2, x, x_stride);
}

template <int kRows>
void panel_fp8(const Panel& panel, const uint16_t* x, int64_t x_stride, Sums<kRows>& total) {
  const DecodeE4m3 decode;
  for (int64_t k = 0; k < panel.count; k += kFp8Block) {
    Sums<kRows> block;
    block.clear();
    const uint8_t* codes = panel.group + (panel.begin + k) / 4 * kFp8QuadBytes;
    for (int64_t i = 0; i < kFp8Block; i += 4, codes += kFp8QuadBytes) {
      for (int c = 0; c < kVectors; ++c) {
        __m512i pairs[2];
        decode(codes + c * 64, pairs);
        block.dot(c, pairs[0], x + k + i, x_stride);
        block.dot(c, pairs[1], x + k + i + 2, x_stride);
      }
    }
    const __m512 scale = _mm512_set1_ps(panel.group_scales[(panel.begin + k) / kFp8Block]);
    for (int r = 0; r < kRows; ++r) {
      for (int c = 0; c < kVectors; ++c) total.v[r][c] = _mm512_fmadd_ps(block.v[r][c], scale, total.v[r][c]);
    }
  }
}

template <int kRows>
void panel_nvfp4(const Panel& panel, const uint16_t* x, int64_t x_stride, Sums<kRows>& total, Widened* keep) {
  const DecodeE2m1 decode;
  const uint8_t* packed = panel.group + panel.begin / kNvfp4Block * kNvfp4BlockBytes;
  for (int64_t k = 0; k < panel.count; k += kNvfp4Block, packed += kNvfp4BlockBytes) {
    Sums<kRows> block;
    block.clear();
    // One line of each block, well ahead: worth 1 %. More of them, or into the first level, hold up the processor's own and cost 5 to 20 %.
    if constexpr (kRows == 1) _mm_prefetch(reinterpret_cast<const char*>(packed) + 16 * kNvfp4BlockBytes, _MM_HINT_T1);
    for (int half = 0; half < 2; ++half) {
      for (int c = 0; c < kVectors; ++c) {
        __m512i pairs[4];
        decode(packed + (half * kVectors + c) * 64, pairs);
        for (int p = 0; p < 4; ++p) {
          block.dot(c, pairs[p], x + k + half * 8 + p * 2, x_stride);
          if (kRows > 1 && keep) _mm512_store_si512(keep->pairs[k / 2 + half * 4 + p][c * 16], pairs[p]);
        }
      }
    }
    const __m512i stored_scales = _mm512_loadu_si512(packed + kGroup * 8);
    for (int c = 0; c < kVectors; ++c) {
      const __m512 scales = scales_of(stored_scales, c);
      for (int r = 0; r < kRows; ++r) total.v[r][c] = _mm512_fmadd_ps(block.v[r][c], scales, total.v[r][c]);
      if (kRows > 1 && keep) _mm512_store_ps(keep->scales[k / kNvfp4Block] + c * 16, scales);
    }
  }
}

// ---- a panel against all rows ----

// Sums of one row and a group's four vectors; members rather than an array, of which the compiler keeps copies on the stack.
struct RowSums {
  __m512 a, b, c, d;
};

inline RowSums zero_sums() { return {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()}; }
inline RowSums load_sums(const float* p) { return {_mm512_loadu_ps(p), _mm512_loadu_ps(p + 16), _mm512_loadu_ps(p + 32), _mm512_loadu_ps(p + 48)}; }
inline void store_sums(float* p, const RowSums& s) {
  _mm512_storeu_ps(p, s.a), _mm512_storeu_ps(p + 16, s.b), _mm512_storeu_ps(p + 32, s.c), _mm512_storeu_ps(p + 48, s.d);
}
inline void add_scaled(RowSums& total, const RowSums& chains, const RowSums& scales) {
  total.a = _mm512_fmadd_ps(chains.a, scales.a, total.a), total.b = _mm512_fmadd_ps(chains.b, scales.b, total.b);
  total.c = _mm512_fmadd_ps(chains.c, scales.c, total.c), total.d = _mm512_fmadd_ps(chains.d, scales.d, total.d);
}

void widen_fp8(const Panel& panel, Widened& out) {
  const DecodeE4m3 decode;
  const uint8_t* codes = panel.group + panel.begin / 4 * kFp8QuadBytes;
  for (int64_t k = 0; k < panel.count; k += 4, codes += kFp8QuadBytes) {
    for (int c = 0; c < kVectors; ++c) {
      __m512i pairs[2];
      decode(codes + c * 64, pairs);
      for (int p = 0; p < 2; ++p) _mm512_store_si512(out.pairs[k / 2 + p][c * 16], pairs[p]);
    }
  }
}

// FP8: chains are long, so all registers go to them; `sums` holds the totals.
template <int kRows>
[[gnu::noinline]] void widened_fp8(const Panel& panel, const Widened& weights, const uint16_t* x, int64_t x_stride, float* sums) {
  for (int64_t k = 0; k < panel.count; k += kFp8Block) {
    Sums<kRows> block;
    block.clear();
    dot_pairs(block, weights.pairs[k / 2][0], kFp8Block / 2, x + k, x_stride);
    asm volatile("" : : : "memory");  // or the compiler loads the totals first, to registers that it does not have
    const __m512 scale = _mm512_set1_ps(panel.group_scales[(panel.begin + k) / kFp8Block]);
    for (int r = 0; r < kRows; ++r) {
      for (int c = 0; c < kVectors; ++c) {
        float* total = sums + r * kGroup + c * 16;
        _mm512_storeu_ps(total, _mm512_fmadd_ps(block.v[r][c], scale, _mm512_loadu_ps(total)));
      }
    }
  }
}

// NVFP4: chains are short, so their totals stay in registers too: twelve and twelve for three rows. A scale per 16 inputs costs one multiply-add per
// eight dot products: 8/9 of BF16's rate is the most there is.
template <int kRows>
[[gnu::noinline]] void widened_nvfp4(const Panel& panel, const Widened& weights, const uint16_t* x, int64_t x_stride, float* sums) {
  const uint16_t *const x0 = x, *const x1 = x + x_stride, *const x2 = x1 + x_stride;
  RowSums total0 = load_sums(sums), total1 = zero_sums(), total2 = zero_sums();
  if constexpr (kRows > 1) total1 = load_sums(sums + kGroup);
  if constexpr (kRows > 2) total2 = load_sums(sums + 2 * kGroup);
  for (int64_t k = 0; k < panel.count; k += kNvfp4Block) {
    RowSums chains0 = zero_sums(), chains1 = zero_sums(), chains2 = zero_sums();
    int64_t end = (k + kNvfp4Block) / 2;
    asm("" : "+r"(end));  // a count that the compiler does not know: unrolled, the loop spills its sums
    for (int64_t p = k / 2; p < end; ++p) {
      __m512i a = _mm512_load_si512(weights.pairs[p][0]), b = _mm512_load_si512(weights.pairs[p][16]), c = _mm512_load_si512(weights.pairs[p][32]), d = _mm512_load_si512(weights.pairs[p][48]);
      asm("" : "+v"(a), "+v"(b), "+v"(c), "+v"(d));  // or each is loaded again for each row
      const auto dot = [&](RowSums& s, const uint16_t* row) {
        const __m512bh xr = as_bh(broadcast_pair(row + p * 2));
        s.a = _mm512_dpbf16_ps(s.a, as_bh(a), xr), s.b = _mm512_dpbf16_ps(s.b, as_bh(b), xr);
        s.c = _mm512_dpbf16_ps(s.c, as_bh(c), xr), s.d = _mm512_dpbf16_ps(s.d, as_bh(d), xr);
      };
      dot(chains0, x0);
      if constexpr (kRows > 1) dot(chains1, x1);
      if constexpr (kRows > 2) dot(chains2, x2);
    }
    const RowSums scales = load_sums(weights.scales[k / kNvfp4Block]);
    add_scaled(total0, chains0, scales);
    if constexpr (kRows > 1) add_scaled(total1, chains1, scales);
    if constexpr (kRows > 2) add_scaled(total2, chains2, scales);
  }
  store_sums(sums, total0);
  if constexpr (kRows > 1) store_sums(sums + kGroup, total1);
  if constexpr (kRows > 2) store_sums(sums + 2 * kGroup, total2);
}

// `keep`: where the decoded panel is left for other rows; nullptr: nowhere.
template <Packed::Format kFormat, int kRows>
inline void tile(const Panel& panel, const uint16_t* x, int64_t x_stride, float* sums, Widened* keep = nullptr) {
  Sums<kRows> total;
  if (panel.begin == 0) {
    total.clear();
  } else {
    total.load(sums);
  }
  if constexpr (kFormat == Packed::Format::bf16) {
    panel_bf16(panel, x, x_stride, total);
  } else if constexpr (kFormat == Packed::Format::fp8) {
    panel_fp8(panel, x, x_stride, total);
  } else {
    panel_nvfp4(panel, x, x_stride, total, keep);
  }
  total.store(sums);
}

// Calls f.operator()<kRows>(first row) over all rows, in tiles of the sizes named, largest first.
template <int kLargest, int... kOthers>
void for_tiles(int64_t rows, const auto& f, int64_t row = 0) {
  for (; row + kLargest <= rows; row += kLargest) f.template operator()<kLargest>(row);
  if constexpr (sizeof...(kOthers) > 0) for_tiles<kOthers...>(rows, f, row);
}

// Many rows on a quantized weight, which decode a panel once. NVFP4: the first three rows decode as they go, the look-ups hidden behind their
// dot products, and leave the panel widened to the others. (FP8's decoder and two sets of sums do not fit the registers.)
template <Packed::Format kFormat>
void run_widened(Panel panel, const Packed& weight, const uint16_t* x, int64_t rows, float* sums, Widened& widened) {
  constexpr int64_t kPanelBytes = kFormat == Packed::Format::fp8 ? kWidenedPanel / 4 * kFp8QuadBytes : kWidenedPanel / kNvfp4Block * kNvfp4BlockBytes;
  std::fill_n(sums, rows * kGroup, 0.0f);
  const int64_t stride = weight.padded_in;
  for (const uint8_t* next = panel.group + kPanelBytes; panel.begin < weight.padded_in; panel.begin += kWidenedPanel, next += kPanelBytes) {
    panel.count = std::min(kWidenedPanel, weight.padded_in - panel.begin);
    int64_t asked = 0;
    // Each tile asks for its share of what the next panel will be decoded from: all at once would hold up the loads behind.
    const auto rows_at = [&](int64_t row, int64_t count, const auto& run) {
      for (; asked < kPanelBytes * (row + count) / rows; asked += 64) _mm_prefetch(reinterpret_cast<const char*>(next + asked), _MM_HINT_T1);
      run(x + row * stride + panel.begin, sums + row * kGroup);
    };
    if constexpr (kFormat == Packed::Format::fp8) {
      widen_fp8(panel, widened);
      for_tiles<6, 5, 4, 3, 2, 1>(rows, [&]<int kRows>(int64_t row) {
        rows_at(row, kRows, [&](const uint16_t* from, float* to) { widened_fp8<kRows>(panel, widened, from, stride, to); });
      });
    } else {
      rows_at(0, 3, [&](const uint16_t* from, float* to) { tile<kFormat, 3>(panel, from, stride, to, &widened); });
      for_tiles<3, 2, 1>(rows, [&]<int kRows>(int64_t row) {
        rows_at(row, kRows, [&](const uint16_t* from, float* to) { widened_nvfp4<kRows>(panel, widened, from, stride, to); });
      }, 3);
    }
  }
}

template <Packed::Format kFormat>
void run_group(const Packed& weight, int64_t group, const uint16_t* x, int64_t rows, float output_scale, float* out, float* sums, Widened& widened) {
  Panel panel{.group = weight.data + group * weight.group_bytes,
              .group_scales = weight.fp8_scales ? weight.fp8_scales + group * kGroup / kFp8Block * weight.fp8_scale_cols : nullptr,
              .begin = 0,
              .count = 0};
  constexpr bool kQuantized = kFormat != Packed::Format::bf16;
  const bool widens = kQuantized && rows >= (kFormat == Packed::Format::fp8 ? kWidenRowsFp8 : kWidenRowsNvfp4);
  if constexpr (kQuantized) {
    if (widens) run_widened<kFormat>(panel, weight, x, rows, sums, widened);
  }
  for (; !widens && panel.begin < weight.padded_in; panel.begin += kPanel) {
    panel.count = std::min(kPanel, weight.padded_in - panel.begin);
    const auto tiles = [&]<int kRows>(int64_t row) { tile<kFormat, kRows>(panel, x + row * weight.padded_in + panel.begin, weight.padded_in, sums + row * kGroup); };
    if constexpr (kQuantized) {
      for_tiles<3, 2, 1>(rows, tiles);  // two sets of sums in registers
    } else {
      for_tiles<6, 5, 4, 3, 2, 1>(rows, tiles);
    }
  }
  const int64_t first = group * kGroup, width = std::min(kGroup, weight.out_features - first);
  for (int64_t row = 0; row < rows; ++row) {
    float* to = out + row * weight.out_features + first;
    for (int64_t i = 0; i < width; ++i) to[i] = sums[row * kGroup + i] * output_scale;
  }
}

// Per thread: sums of one group, grown to the largest step once, and its decoded panel.
struct Scratch {
  std::unique_ptr<float[]> sums;
  int64_t rows = 0;
  Widened widened;

  float* sums_for(int64_t wanted) {
    if (rows < wanted) {
      rows = wanted;
      sums = std::make_unique<float[]>(static_cast<size_t>(wanted * kGroup));
    }
    return sums.get();
  }
};
thread_local Scratch t_scratch;
}  // namespace

Packed plan(const LinearWeight& weight) {
  const auto [n, k] = shape_of(weight);
  Packed packed{.format = Packed::Format::bf16, .out_features = n, .in_features = k, .padded_in = round_up(k, 2), .group_bytes = 0, .data = nullptr,
                .fp8_scales = nullptr, .fp8_scale_cols = 0, .output_scale = 1.0f};
  if (const auto* w = std::get_if<Nvfp4Weight>(&weight)) {
    packed.format = Packed::Format::nvfp4;
    packed.padded_in = k;
    packed.output_scale = w->tensor_scale * kNvfp4Factor;
    packed.group_bytes = k / kNvfp4Block * kNvfp4BlockBytes;
  } else if (const auto* w8 = std::get_if<Fp8BlockWeight>(&weight)) {
    packed.format = Packed::Format::fp8;
    packed.padded_in = round_up(k, kFp8Block);
    packed.fp8_scales = w8->scales.as<float>();
    packed.fp8_scale_cols = w8->scales.cols();
    packed.group_bytes = packed.padded_in / 4 * kFp8QuadBytes;
  } else {
    packed.group_bytes = packed.padded_in / 2 * kBf16PairBytes;
  }
  return packed;
}

void pack(const LinearWeight& weight, const Packed& plan, uint8_t* data, ThreadPool& threads) {
  const int64_t n = plan.out_features, k = plan.in_features;
  threads.run((n + kGroup - 1) / kGroup, [&](int64_t group) {
    uint8_t* out = data + group * plan.group_bytes;
    std::memset(out, 0, static_cast<size_t>(plan.group_bytes));
    for (int64_t lane = 0; lane < std::min(kGroup, n - group * kGroup); ++lane) {
      const int64_t row = group * kGroup + lane, vector = lane / 16, output = lane % 16;
      if (const auto* w = std::get_if<Bf16Weight>(&weight)) {
        const uint16_t* from = w->weight.as<uint16_t>() + row * k;
        auto* to = reinterpret_cast<uint16_t*>(out) + lane * 2;
        for (int64_t i = 0; i < k; ++i) to[i / 2 * kGroup * 2 + i % 2] = from[i];
      } else if (const auto* w8 = std::get_if<Fp8BlockWeight>(&weight)) {
        const uint8_t* from = w8->codes.as<uint8_t>() + row * k;
        // The unpacks take bytes 0..7 (pair 0) and 8..15 (pair 1) of each 16-byte lane: four outputs, two inputs each.
        uint8_t* to = out + vector * 64 + output / 4 * 16 + output % 4 * 2;
        for (int64_t i = 0; i < k; ++i) to[i / 4 * kFp8QuadBytes + i % 4 / 2 * 8 + i % 2] = from[i];
      } else {
        const auto& w4 = std::get<Nvfp4Weight>(weight);
        const uint8_t* from = w4.codes.as<uint8_t>() + row * (k / 2);
        const uint8_t* scales = w4.block_scales.as<uint8_t>() + row * (k / kNvfp4Block);
        for (int64_t i = 0; i < k; ++i) {
          const uint8_t code = i % 2 == 0 ? from[i / 2] & 15 : from[i / 2] >> 4;
          const int64_t in_block = i % kNvfp4Block, half = in_block / 8, pair = in_block % 8 / 2;
          uint8_t* word = out + i / kNvfp4Block * kNvfp4BlockBytes + (half * kVectors + vector) * 64 + (output * 2 + i % 2) * 2;
          word[pair / 2] |= static_cast<uint8_t>(code << (pair % 2 * 4));
        }
        for (int64_t b = 0; b < k / kNvfp4Block; ++b) out[b * kNvfp4BlockBytes + kGroup * 8 + output * 4 + vector] = scales[b];
      }
    }
  });
}

void run(const Packed& weight, const uint16_t* x, int64_t rows, float output_scale, float* out, ThreadPool& threads) {
  threads.run_in_runs((weight.out_features + kGroup - 1) / kGroup, [&](int64_t group) {
    float* sums = t_scratch.sums_for(rows);
    Widened& widened = t_scratch.widened;
    switch (weight.format) {
      case Packed::Format::bf16: return run_group<Packed::Format::bf16>(weight, group, x, rows, output_scale, out, sums, widened);
      case Packed::Format::fp8: return run_group<Packed::Format::fp8>(weight, group, x, rows, output_scale, out, sums, widened);
      case Packed::Format::nvfp4: return run_group<Packed::Format::nvfp4>(weight, group, x, rows, output_scale, out, sums, widened);
    }
  });
}

void touch(const uint8_t* memory, int64_t bytes) {
  __m512i sums[4] = {};
  for (int64_t at = 0; at < bytes; at += 256) {
    for (int i = 0; i < 4; ++i) sums[i] = _mm512_xor_si512(sums[i], _mm512_load_si512(memory + at + i * 64));
  }
  volatile int64_t sink = _mm512_reduce_add_epi64(_mm512_xor_si512(_mm512_xor_si512(sums[0], sums[1]), _mm512_xor_si512(sums[2], sums[3])));
  static_cast<void>(sink);
}

void spin(int64_t rounds) {
  __m512 sums[16];
  for (auto& s : sums) s = _mm512_setzero_ps();
  const __m512bh a = as_bh(_mm512_set1_epi16(0x3f80)), b = as_bh(_mm512_set1_epi16(0x3c00));
  for (int64_t i = 0; i < rounds; ++i) {
    for (auto& s : sums) s = _mm512_dpbf16_ps(s, a, b);
  }
  float total = 0;
  for (const auto& s : sums) total += _mm512_reduce_add_ps(s);
  volatile float sink = total;
  static_cast<void>(sink);
}
}  // namespace nibble::cpu::avx512_bf16
