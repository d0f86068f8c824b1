// The NVFP4 scale search and encoder, one block of 16 weights per register.
//
// Exactness of the skipping: the loss of a candidate is the rounded sum of non-negative terms in a fixed tree, so leaving terms out, or making them smaller,
// cannot make it larger. Below the start, the largest weight alone costs (a - 6 s)^2 and more for every smaller s; above it, the weights that become zero
// cost their squares, and for larger s more of them do.
#include <immintrin.h>

#include <bit>
#include <cstring>

#include "kernels/quantize_weights.h"

// g++ 12 sees uninitialized values in its own intrinsics (its bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#define NB_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))

namespace nibble::cpu::avx512 {
namespace {
NB_AVX512 inline __m512 load_block(const uint16_t* block) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(block))), 16));
}

// The nearest of 0 0.5 1 1.5 2 3 4 6, ties to the even code: steps of 0.5 up to 2, of 1 up to 4, of 2 beyond.
NB_AVX512 inline __m512 e2m1_magnitude(__m512 t) {
  const __m512 halves = _mm512_roundscale_ps(t, 0x10), ones = _mm512_roundscale_ps(t, 0x00);
  const __m512 twos = _mm512_mul_ps(_mm512_roundscale_ps(_mm512_mul_ps(t, _mm512_set1_ps(0.5f)), 0x00), _mm512_set1_ps(2.0f));
  __m512 q = _mm512_mask_blend_ps(_mm512_cmp_ps_mask(t, _mm512_set1_ps(2.0f), _CMP_GE_OQ), halves, ones);
  q = _mm512_mask_blend_ps(_mm512_cmp_ps_mask(t, _mm512_set1_ps(4.0f), _CMP_GE_OQ), q, twos);
  return _mm512_min_ps(q, _mm512_set1_ps(6.0f));
}

// Lane i + lane i + 8, then 4, 2, 1.
NB_AVX512 inline double tree_sum(__m512d low, __m512d high) {
  const __m512d eight = _mm512_add_pd(low, high);
  const __m256d four = _mm256_add_pd(_mm512_castpd512_pd256(eight), _mm512_extractf64x4_pd(eight, 1));
  const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
  return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}
}  // namespace

NB_AVX512 uint8_t search_nvfp4_scale(const uint16_t* block, float tensor_amax, const float* candidates) {
  const __m512 a = _mm512_abs_ps(load_block(block));
  const float largest = _mm512_reduce_max_ps(a);
  if (largest == 0.0f) return 1;
  const __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(a)), high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1));
  const auto loss_of = [&](float s, double& zeroed) NB_AVX512 {
    const __m512 t = _mm512_div_ps(a, _mm512_set1_ps(s));
    const __m512 q = _mm512_mul_ps(e2m1_magnitude(t), _mm512_set1_ps(s));
    const __m512d d0 = _mm512_sub_pd(low, _mm512_cvtps_pd(_mm512_castps512_ps256(q))), d1 = _mm512_sub_pd(high, _mm512_cvtps_pd(_mm512_extractf32x8_ps(q, 1)));
    const __mmask16 zero = _mm512_cmp_ps_mask(t, _mm512_set1_ps(0.25f), _CMP_LE_OQ);
    zeroed = tree_sum(_mm512_maskz_mul_pd(static_cast<__mmask8>(zero), low, low), _mm512_maskz_mul_pd(static_cast<__mmask8>(zero >> 8), high, high));
    return tree_sum(_mm512_mul_pd(d0, d0), _mm512_mul_pd(d1, d1));
  };

  int start = 1;  // about the scale that takes the largest weight to 6
  {
    const float wanted = largest / tensor_amax * 448.0f;
    int lo = 1, hi = 126;
    while (lo < hi) {
      const int middle = (lo + hi) / 2;
      const uint32_t m = static_cast<uint32_t>(middle);
      const float value = m < 8 ? static_cast<float>(m) * 0x1p-9f : std::bit_cast<float>(((m >> 3) + 120) << 23 | (m & 7) << 20);
      if (value < wanted) lo = middle + 1; else hi = middle;
    }
    start = lo;
  }
  int best = start;
  double zeroed, best_loss = loss_of(candidates[start], zeroed);
  for (int c = start + 1; c <= 126; ++c) {
    const double loss = loss_of(candidates[c], zeroed);
    if (loss < best_loss) best_loss = loss, best = c;
    if (zeroed >= best_loss) break;
  }
  for (int c = start - 1; c >= 1; --c) {
    const double reach = static_cast<double>(6.0f * candidates[c]), short_by = static_cast<double>(largest) - reach;
    if (short_by > 0 && short_by * short_by > best_loss) break;
    const double loss = loss_of(candidates[c], zeroed);
    if (loss <= best_loss) best_loss = loss, best = c;
  }
  return static_cast<uint8_t>(best);
}

NB_AVX512 void encode_nvfp4_block(const uint16_t* block, float scale, uint8_t* codes) {
  const __m512 w = load_block(block);
  const __m512 t = _mm512_div_ps(w, _mm512_set1_ps(scale));
  const __m512 q = e2m1_magnitude(_mm512_abs_ps(t));
  const __m512i table = _mm512_setr_epi32(0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7);
  __m512i code = _mm512_permutexvar_epi32(_mm512_cvttps_epi32(_mm512_add_ps(q, q)), table);
  code = _mm512_mask_or_epi32(code, _mm512_cmp_ps_mask(t, _mm512_setzero_ps(), _CMP_LT_OQ), code, _mm512_set1_epi32(8));
  const __m128i bytes = _mm512_cvtepi32_epi8(code);
  const __m128i pairs = _mm_maddubs_epi16(bytes, _mm_set1_epi16(0x1001));  // low + 16 * high
  const __m128i packed = _mm_cvtepi16_epi8(pairs);
  _mm_storel_epi64(reinterpret_cast<__m128i*>(codes), packed);
}
}  // namespace nibble::cpu::avx512
