// A picture at the size that its budget of soft tokens allows, cut into patches, exactly as the reference's CPU path does it.
//
// Size. B tokens are B * 48 * 48 pixels; the picture is scaled to them, sides rounded down to multiples of 48 (so aspect ratios shift a little).
// Resampling. Antialiased bicubic (a = -0.5), horizontal pass, then vertical, 8-bit values between them, weights as integers of at most 16 bits per axis; a
// pass that changes nothing is skipped.
// Patches. 48 x 48 pixels, row by row of patches; inside a patch row, column, channel: 6912 bytes.
#pragma once

#include "media/image.h"

namespace nibble {
inline constexpr int32_t kPatchSide = 48;
inline constexpr int64_t kPatchBytes = int64_t{kPatchSide} * kPatchSide * 3;

bool is_soft_token_budget(int64_t budget);  // 70, 140, 280, 560, 1120

struct ImageSize {
  int32_t width = 0, height = 0;  // multiples of 48
  int32_t columns() const { return width / kPatchSide; }
  int32_t num_patches() const { return columns() * (height / kPatchSide); }
};
Result<ImageSize> target_size(int64_t width, int64_t height, int32_t budget);

Image resize_bicubic(const Image& image, int32_t width, int32_t height);

struct ImagePatches {
  std::vector<uint8_t> pixels;  // [patches, 6912]
  int32_t columns = 0;          // patch i lies at column i % columns, row i / columns
  int32_t num_patches() const { return static_cast<int32_t>(static_cast<int64_t>(pixels.size()) / kPatchBytes); }
};
ImagePatches cut_patches(const Image& image);  // sides are multiples of 48

Result<ImagePatches> image_patches(const Image& image, int32_t budget);
}  // namespace nibble
