// Pictures from outside: JPEG, PNG, WebP and GIF (its first frame) to 8-bit RGB, turned upright by their EXIF orientation, transparency laid over white.
//
// The format is told by the bytes. Sizes are checked before anything of that size is allocated. A file that ends early or breaks its format is an error,
// never half a picture.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/error.h"

namespace nibble {
struct Image {
  int32_t width = 0, height = 0;
  std::vector<uint8_t> rgb;  // [height, width, 3]
};

struct ImageLimits {
  int64_t max_pixels = 100'000'000;
};

Result<Image> decode_image(std::span<const std::byte> bytes, const ImageLimits& limits = {});

// The orientation of an EXIF block, 1..8 as in the standard; 1 when it has none or is broken.
int exif_orientation(std::span<const uint8_t> tiff);
}  // namespace nibble
