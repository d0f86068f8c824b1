#include "media/image.h"

#include <cstring>

#include "media/image_codecs.h"

namespace nibble {
namespace {
// EXIF: 2 mirrored, 3 turned by 180 degrees, 4 flipped, 5 to 8 with rows and columns exchanged.
void turn_upright(Image& image, int orientation) {
  if (orientation <= 1 || orientation > 8) return;
  const bool exchanged = orientation >= 5;
  const int32_t w = image.width, h = image.height;
  Image out{.width = exchanged ? h : w, .height = exchanged ? w : h, .rgb = std::vector<uint8_t>(image.rgb.size())};
  for (int32_t y = 0; y < out.height; ++y) {
    for (int32_t x = 0; x < out.width; ++x) {
      int32_t sx = exchanged ? y : x, sy = exchanged ? x : y;
      if (orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8) sx = w - 1 - sx;
      if (orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7) sy = h - 1 - sy;
      std::memcpy(&out.rgb[(static_cast<size_t>(y) * static_cast<size_t>(out.width) + static_cast<size_t>(x)) * 3],
                  &image.rgb[(static_cast<size_t>(sy) * static_cast<size_t>(w) + static_cast<size_t>(sx)) * 3], 3);
    }
  }
  image = std::move(out);
}

bool begins_with(Bytes bytes, std::string_view magic, size_t at = 0) { return bytes.size() >= at + magic.size() && std::memcmp(bytes.data() + at, magic.data(), magic.size()) == 0; }
}  // namespace

Result<void> check_size(int64_t width, int64_t height, const ImageLimits& limits) {
  if (width <= 0 || height <= 0) return fail(ErrorCode::invalid_argument, "the image is empty ({} x {} pixels)", width, height);
  if (width * height > limits.max_pixels) return fail(ErrorCode::invalid_argument, "the image has {} x {} pixels; at most {} are taken", width, height, limits.max_pixels);
  return {};
}

void flatten(const uint8_t* rgba, int64_t pixels, uint8_t* rgb) {
  for (int64_t i = 0; i < pixels; ++i) {
    const uint32_t a = rgba[i * 4 + 3];
    for (int c = 0; c < 3; ++c) rgb[i * 3 + c] = static_cast<uint8_t>((rgba[i * 4 + c] * a + 255 * (255 - a) + 127) / 255);
  }
}

int exif_orientation(Bytes tiff) {
  if (begins_with(tiff, std::string_view("Exif\0\0", 6))) tiff = tiff.subspan(6);
  if (tiff.size() < 8) return 1;
  const bool little = tiff[0] == 'I';
  const auto u16 = [&](size_t at) -> uint32_t {
    if (at + 2 > tiff.size()) return 0;
    return little ? tiff[at] | tiff[at + 1] << 8 : tiff[at] << 8 | tiff[at + 1];
  };
  const auto u32 = [&](size_t at) { return little ? u16(at) | u16(at + 2) << 16 : u16(at) << 16 | u16(at + 2); };
  if (u16(2) != 42) return 1;
  const size_t directory = u32(4);
  for (uint32_t entry = 0; entry < u16(directory); ++entry) {
    const size_t at = directory + 2 + size_t{12} * entry;
    if (at + 12 > tiff.size()) return 1;
    if (u16(at) != 0x0112) continue;
    const uint32_t value = u16(at + 8);
    return value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
  }
  return 1;
}

Result<Image> decode_image(std::span<const std::byte> data, const ImageLimits& limits) {
  const Bytes bytes(reinterpret_cast<const uint8_t*>(data.data()), data.size());
  Image image;
  Result<int> orientation = 1;
  if (begins_with(bytes, "\xff\xd8\xff")) {
    orientation = decode_jpeg(bytes, limits, image);
  } else if (begins_with(bytes, "\x89PNG\r\n\x1a\n")) {
    orientation = decode_png(bytes, limits, image);
  } else if (begins_with(bytes, "RIFF") && begins_with(bytes, "WEBP", 8)) {
    orientation = decode_webp(bytes, limits, image);
  } else if (begins_with(bytes, "GIF8")) {
    orientation = decode_gif(bytes, limits, image);
  } else {
    return fail(ErrorCode::invalid_argument, "the {} bytes are no image that is known here: wanted JPEG, PNG, WebP or GIF", bytes.size());
  }
  if (!orientation) return tl::unexpected(std::move(orientation).error());
  turn_upright(image, *orientation);
  return image;
}
}  // namespace nibble
