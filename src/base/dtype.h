// Element types of tensors, on disk (safetensors names) and in memory.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace nibble {
enum class DType : uint8_t { boolean, u8, i8, i16, i32, i64, bf16, f16, f32, f64, e4m3 };

constexpr int64_t size_of(DType dtype) {
  switch (dtype) {
    case DType::boolean:
    case DType::u8:
    case DType::i8:
    case DType::e4m3: return 1;
    case DType::i16:
    case DType::bf16:
    case DType::f16: return 2;
    case DType::i32:
    case DType::f32: return 4;
    case DType::i64:
    case DType::f64: return 8;
  }
  return 0;
}

std::string_view name_of(DType dtype);                         // "BF16", "F8_E4M3": the safetensors spelling
std::optional<DType> dtype_from_name(std::string_view name);  // nullopt: not one of ours
}  // namespace nibble
