// Video from outside: up to 32 frames, evenly taken, at a common size, each with its time.
#pragma once

#include "media/resize.h"

namespace nibble {
struct VideoFrame {
  ImagePatches patches;
  double seconds = 0;
};

struct VideoOptions {
  int32_t num_frames = 32;      // frame j of these is frame floor(j * F / num_frames) of the file's F; all of them when F is less
  int32_t budget = 70;          // soft tokens of a frame
  int64_t max_frames = 40'000;  // of the file
};

Result<std::vector<VideoFrame>> decode_video(std::span<const std::byte> bytes, const VideoOptions& options = {});

std::string video_stamp(double seconds);  // "MM:SS"
}  // namespace nibble
