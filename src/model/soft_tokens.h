// One image, video frame or clip of sound inside a prompt: which positions it takes and what stands there.
#pragma once

#include <cstdint>
#include <vector>

#include "base/hash.h"

namespace nibble {
struct SoftTokens {
  enum class Kind : uint8_t { image, video, audio };
  Kind kind = Kind::image;
  int32_t first_position = 0, count = 0;  // [first_position, first_position + count)
  std::vector<uint8_t> patches;           // image and video: [count, 6912], see media/resize.h
  int32_t columns = 1;                    // patches in a row of the picture
  std::vector<float> frames;              // audio: [count, 640]
  Hash128 content;                        // of all that the soft tokens depend on

  int32_t end() const { return first_position + count; }
  bool is_picture() const { return kind != Kind::audio; }
};

// Rows [first_row, first_row + num_rows) of a step are soft tokens [first_token, ...) of one medium.
struct SoftRows {
  const SoftTokens* tokens = nullptr;
  int32_t first_row = 0, num_rows = 0, first_token = 0;
};
}  // namespace nibble
