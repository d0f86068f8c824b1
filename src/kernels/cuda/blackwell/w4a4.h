// W4A4 on the FP4 units of Blackwell: activations rounded to NVFP4 by one kernel, then cuBLASLt's block-scaled product.
//
//   out[m, n] = g s2 sum_blocks Sx[m, b] Sw[n, b] sum_16 e2m1(x code) e2m1(w code)        g: the input scale, s2: the weight's tensor scale
//
// NEVER RUN ON A BLACKWELL. What can be checked without one is: it compiles (sm_100a, sm_103a, sm_120a; -DNIBBLE_BLACKWELL=ON), and the arithmetic and the layouts,
// which are the host functions below, agree with the CPU's W4A4 (blackwell_test.cpp). The other kernels of this build run on Hopper alone, so no model reaches it yet.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define NB_ANYWHERE __host__ __device__
#else
#define NB_ANYWHERE
#endif

namespace nibble::blackwell {
// Whether a GPU of this compute capability has FP4 units that the code is compiled for.
constexpr bool has_fp4_units(int major, int minor) { return (major == 10 && (minor == 0 || minor == 3)) || (major == 12 && minor == 0); }

// ---- Scales as the tensor cores read them: tiles of 128 rows by 4 blocks of 16, 512 bytes each, row of tiles by row of tiles; rows padded to 128 and blocks to 4
// with zeros.
NB_ANYWHERE constexpr int64_t scale_bytes(int64_t rows, int64_t blocks) { return (rows + 127) / 128 * 128 * ((blocks + 3) / 4 * 4); }
NB_ANYWHERE constexpr int64_t scale_place(int64_t row, int64_t block, int64_t blocks) {
  const int64_t tile = row / 128 * ((blocks + 3) / 4) + block / 4, r = row % 128;
  return tile * 512 + r % 32 * 16 + r / 32 * 4 + block % 4;
}

// ---- Sixteen values to codes (value i in byte i / 2, the even ones in the low nibbles) and their scale.
NB_ANYWHERE inline uint8_t encode_e2m1(float x) {  // ties to the even code; the sign is x < 0
  const float a = x < 0.0f ? -x : x;
  const int magnitude = (a > 0.25f) + (a >= 0.75f) + (a > 1.25f) + (a >= 1.75f) + (a > 2.5f) + (a >= 3.5f) + (a > 5.0f);
  return static_cast<uint8_t>(magnitude | (x < 0.0f ? 8 : 0));
}
// `encode_e4m3` and `decode_e4m3`: the machine's, of positive numbers.
template <typename Encode, typename Decode>
NB_ANYWHERE uint8_t quantize_block(const float (&x)[16], float global_scale, uint8_t (&codes)[8], const Encode& encode_e4m3, const Decode& decode_e4m3) {
  float highest = 0.0f;
  for (const float v : x) {
    const float a = v < 0.0f ? -v : v;
    highest = a > highest ? a : highest;
  }
  const uint8_t scale = encode_e4m3(highest / 6.0f / global_scale);
  const float step = decode_e4m3(scale) * global_scale;
  for (int i = 0; i < 8; ++i) {
    const uint8_t low = step == 0.0f ? uint8_t{0} : encode_e2m1(x[2 * i] / step), high = step == 0.0f ? uint8_t{0} : encode_e2m1(x[2 * i + 1] / step);
    codes[i] = static_cast<uint8_t>(low | high << 4);
  }
  return scale;
}

// ---- On the device (w4a4.cu, where it is compiled). Pointers are the device's; `stream` is a cudaStream_t.
struct Product {
  int64_t n = 0, k = 0;             // of the weight; k a multiple of 32
  const void* codes = nullptr;      // [n, k / 2], as in the checkpoint
  const void* scales = nullptr;     // scale_bytes(n, k / 16), placed by scale_place
  float global_scale = 1.0f;        // of the inputs
  float factor = 1.0f;              // global_scale * tensor_scale
};
struct Scratch {
  void* codes = nullptr;            // rows * k / 2
  void* scales = nullptr;           // scale_bytes(rows, k / 16), zeroed once
  void* workspace = nullptr;
  int64_t workspace_bytes = 0;
};
// out [rows, n] f32 = x [rows, k] bf16 times the weight. `blas` is a cublasLtHandle_t. Returns nullptr, or what failed.
const char* multiply(const Product& product, const void* x, int64_t rows, const Scratch& scratch, float* out, void* blas, void* stream);
}  // namespace nibble::blackwell
