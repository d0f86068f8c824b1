#include "base/dtype.h"

#include <array>
#include <utility>

namespace nibble {
namespace {
constexpr std::array<std::pair<DType, std::string_view>, 11> kNames{{
    {DType::boolean, "BOOL"}, {DType::u8, "U8"}, {DType::i8, "I8"}, {DType::i16, "I16"}, {DType::i32, "I32"}, {DType::i64, "I64"},
    {DType::bf16, "BF16"}, {DType::f16, "F16"}, {DType::f32, "F32"}, {DType::f64, "F64"}, {DType::e4m3, "F8_E4M3"},
}};
}  // namespace

std::string_view name_of(DType dtype) {
  for (const auto& [value, name] : kNames) {
    if (value == dtype) return name;
  }
  return "?";
}

std::optional<DType> dtype_from_name(std::string_view name) {
  for (const auto& [value, text] : kNames) {
    if (text == name) return value;
  }
  return std::nullopt;
}
}  // namespace nibble
