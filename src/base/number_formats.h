// The number formats of the checkpoints, as plain scalars: bf16, f16, E4M3 and E2M1.
//
// Every encoder rounds to nearest, ties to even, keeps subnormals. E4M3 ("fn": no infinities, 0x7F and 0xFF are NaN) and E2M1 saturate.
// docs/formats/ has the tables. These are the definitions; kernels have faster forms that are tested against them.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace nibble {
struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};
struct e4m3 {
  uint8_t bits;
};

inline float to_float(bf16 x) { return std::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16); }

inline bf16 to_bf16(float x) {
  const uint32_t u = std::bit_cast<uint32_t>(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((u >> 16) | 0x40)};  // keep NaN a NaN
  return {static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1)) >> 16)};
}

float to_float(f16 x);

// s eeee mmm, bias 7; largest 448, smallest 2^-9.
constexpr float to_float(e4m3 x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x80) << 24, exponent = (x.bits >> 3) & 15, mantissa = x.bits & 7;
  if ((x.bits & 0x7f) == 0x7f) return std::bit_cast<float>(sign | 0x7fc00000u);
  if (exponent == 0) return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(static_cast<float>(mantissa) * 0x1p-9f));
  return std::bit_cast<float>(sign | (exponent + 120) << 23 | mantissa << 20);
}
e4m3 to_e4m3(float x);  // NaN gives 0x7F; beyond 448 gives 448

// s ee m: 0 0.5 1 1.5 2 3 4 6. Codes are 0..15, in the low four bits.
inline constexpr float kE2m1Values[16] = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                                          -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};
inline float e2m1_to_float(uint8_t code) { return kE2m1Values[code & 15]; }
// Saturates at 6. The sign bit is x < 0: a negative number that rounds to zero gives code 8.
inline uint8_t to_e2m1(float x) {
  const float a = std::fabs(x);
  const int magnitude = (a > 0.25f) + (a >= 0.75f) + (a > 1.25f) + (a >= 1.75f) + (a > 2.5f) + (a >= 3.5f) + (a > 5.0f);
  return static_cast<uint8_t>(magnitude | (x < 0.0f ? 8 : 0));
}
}  // namespace nibble
