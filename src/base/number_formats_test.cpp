#include "base/number_formats.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

namespace nibble {
namespace {
TEST(Bf16, EveryCodeSurvivesTheRoundTrip) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const bf16 x{static_cast<uint16_t>(bits)};
    if (std::isnan(to_float(x))) {
      EXPECT_TRUE(std::isnan(to_float(to_bf16(to_float(x)))));
    } else {
      ASSERT_EQ(to_bf16(to_float(x)).bits, bits);
    }
  }
}

TEST(Bf16, TiesGoToTheEvenMantissa) {
  EXPECT_EQ(to_bf16(std::bit_cast<float>(0x3f808000u)).bits, 0x3f80);  // half way, even below
  EXPECT_EQ(to_bf16(std::bit_cast<float>(0x3f818000u)).bits, 0x3f82);  // half way, even above
  EXPECT_EQ(to_bf16(std::bit_cast<float>(0x3f808001u)).bits, 0x3f81);
}

TEST(E4m3, NamedValues) {
  EXPECT_EQ(to_float(e4m3{0x7e}), 448.0f);
  EXPECT_EQ(to_float(e4m3{0x01}), std::ldexp(1.0f, -9));
  EXPECT_EQ(to_float(e4m3{0x08}), std::ldexp(1.0f, -6));
  EXPECT_EQ(to_float(e4m3{0x38}), 1.0f);
  EXPECT_TRUE(std::isnan(to_float(e4m3{0x7f})));
  EXPECT_TRUE(std::isnan(to_float(e4m3{0xff})));
}

TEST(E4m3, EveryFiniteCodeSurvivesTheRoundTrip) {
  for (int code = 0; code < 256; ++code) {
    if ((code & 127) == 127) continue;
    ASSERT_EQ(to_e4m3(to_float(e4m3{static_cast<uint8_t>(code)})).bits, code);
  }
}

TEST(E4m3, RoundsToTheNearestWithTiesToEvenAndSaturates) {
  for (int code = 0; code < 0x7e; ++code) {
    const float low = to_float(e4m3{static_cast<uint8_t>(code)}), high = to_float(e4m3{static_cast<uint8_t>(code + 1)});
    const float middle = (low + high) / 2;
    ASSERT_EQ(to_e4m3(middle).bits, code % 2 == 0 ? code : code + 1);
    ASSERT_EQ(to_e4m3(std::nextafter(middle, 0.0f)).bits, code);
    ASSERT_EQ(to_e4m3(std::nextafter(middle, 1e9f)).bits, code + 1);
    ASSERT_EQ(to_e4m3(-middle).bits, (code % 2 == 0 ? code : code + 1) | 0x80);
  }
  EXPECT_EQ(to_e4m3(1e30f).bits, 0x7e);
  EXPECT_EQ(to_e4m3(-INFINITY).bits, 0xfe);
  EXPECT_EQ(to_e4m3(-0.0f).bits, 0x80);
}

TEST(E2m1, TiesGoToTheEvenCodeAndLargeValuesSaturate) {
  for (int code = 0; code < 7; ++code) {
    const float low = kE2m1Values[code], high = kE2m1Values[code + 1], middle = (low + high) / 2;
    EXPECT_EQ(to_e2m1(middle), code % 2 == 0 ? code : code + 1);
    EXPECT_EQ(to_e2m1(std::nextafter(middle, 0.0f)), code);
    EXPECT_EQ(to_e2m1(std::nextafter(middle, 9.0f)), code + 1);
  }
  EXPECT_EQ(to_e2m1(100.0f), 7);
  EXPECT_EQ(to_e2m1(-100.0f), 15);
  EXPECT_EQ(to_e2m1(-0.0f), 0);
  EXPECT_EQ(to_e2m1(-0.1f), 8);
}

TEST(F16, NamedValues) {
  EXPECT_EQ(to_float(f16{0x3c00}), 1.0f);
  EXPECT_EQ(to_float(f16{0x0001}), std::ldexp(1.0f, -24));
  EXPECT_EQ(to_float(f16{0xfbff}), -65504.0f);
  EXPECT_TRUE(std::isinf(to_float(f16{0x7c00})));
}
}  // namespace
}  // namespace nibble
