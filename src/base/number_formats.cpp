#include "base/number_formats.h"

#include <algorithm>

namespace nibble {
float to_float(f16 x) {
  const int sign = x.bits >> 15, exponent = (x.bits >> 10) & 31, mantissa = x.bits & 1023;
  float value;
  if (exponent == 31) {
    value = mantissa == 0 ? INFINITY : NAN;
  } else if (exponent == 0) {
    value = std::ldexp(static_cast<float>(mantissa), -24);
  } else {
    value = std::ldexp(static_cast<float>(1024 + mantissa), exponent - 25);
  }
  return sign ? -value : value;
}

e4m3 to_e4m3(float x) {
  if (std::isnan(x)) return {0x7f};
  const uint8_t sign = std::signbit(x) ? 0x80 : 0;
  const float a = std::min(std::fabs(x), 448.0f);
  if (a == 0.0f) return {sign};
  int exponent;
  std::frexp(a, &exponent);  // a = f * 2^exponent, f in [0.5, 1)
  // One unit in the last place: 2^-9 for subnormals, else 2^(exponent - 4). nearbyint ties to even, and even counts of units are even codes.
  const int ulp = std::max(exponent - 4, -9);
  const int units = static_cast<int>(std::nearbyint(std::ldexp(a, -ulp)));
  // 16 units of one binade are 8 of the next; the code arithmetic carries by itself.
  const int code = ((ulp + 9) << 3) + units;
  return {static_cast<uint8_t>(sign | code)};
}
}  // namespace nibble
