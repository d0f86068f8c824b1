// rooms: formats
// Any bytes as a safetensors file: parsed, or refused with an Error; then every tensor's first and last byte must lie in the input.
#include <cstdint>
#include <cstdlib>

#include "base/error.h"
#include "formats/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const auto bytes = std::as_bytes(std::span(data, size));
    unsigned sum = 0;
    for (const auto& [name, tensor] : nibble::parse_safetensors(bytes, "input.safetensors")) {
      if (tensor.bytes() == 0) continue;
      const auto* first = tensor.as<const uint8_t>();
      if (first < data || first + tensor.bytes() > data + size) std::abort();
      sum += first[0] + first[tensor.bytes() - 1];
    }
    volatile unsigned sink = sum;
    (void)sink;
  } catch (const nibble::Error&) {
  }
  return 0;
}
