// Sound from outside: whatever libav reads (WAV, FLAC, Ogg, MP3, AAC in MP4, WebM, ...) to mono samples at 16 kHz in [-1, 1], and those to frames of 40 ms.
// Channels are averaged; other rates are resampled by soxr at high quality. There is no normalization and no mel.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/error.h"

namespace nibble {
inline constexpr int32_t kAudioRate = 16000;
inline constexpr int32_t kFrameSamples = 640;  // one soft token

struct AudioClip {
  std::vector<float> samples;  // mono, 16 kHz
};

struct AudioLimits {
  int64_t max_seconds = 30 * 60;
};

Result<AudioClip> decode_audio(std::span<const std::byte> bytes, const AudioLimits& limits = {});

struct AudioFrames {
  std::vector<float> samples;  // [frames, 640], the last frame padded with zeros
  int32_t num_frames() const { return static_cast<int32_t>(samples.size() / kFrameSamples); }
};
AudioFrames audio_frames(const AudioClip& clip);
}  // namespace nibble
