// One function per format, for image.cpp. Each fills `image` and gives the EXIF orientation.
#pragma once

#include "media/image.h"

namespace nibble {
using Bytes = std::span<const uint8_t>;

Result<int> decode_jpeg(Bytes bytes, const ImageLimits& limits, Image& image);
Result<int> decode_png(Bytes bytes, const ImageLimits& limits, Image& image);
Result<int> decode_webp(Bytes bytes, const ImageLimits& limits, Image& image);
Result<int> decode_gif(Bytes bytes, const ImageLimits& limits, Image& image);

// invalid_argument when a picture of this size is empty or beyond the limits.
Result<void> check_size(int64_t width, int64_t height, const ImageLimits& limits);

// RGBA over white: (c * a + 255 * (255 - a)) / 255, rounded.
void flatten(const uint8_t* rgba, int64_t pixels, uint8_t* rgb);
}  // namespace nibble
