// Loads and stores of the plain twins: any activation or cache dtype to and from f32.
#pragma once

#include "base/number_formats.h"
#include "base/tensor.h"

namespace nibble::cpu {
inline float load(const float* p) { return *p; }
inline float load(const bf16* p) { return to_float(*p); }
inline float load(const e4m3* p) { return to_float(*p); }
inline void store(float x, float* p) { *p = x; }
inline void store(float x, bf16* p) { *p = to_bf16(x); }
inline void store(float x, e4m3* p) { *p = to_e4m3(x); }

// Calls body(T{}) with the C++ type of an activation or cache dtype.
template <typename Body>
void with_type(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::f32: return body(float{});
    case DType::bf16: return body(bf16{});
    case DType::e4m3: return body(e4m3{});
    default: NB_ASSERT(false, "dtype must be f32, bf16 or e4m3");
  }
}
}  // namespace nibble::cpu
