#include "media/audio.h"

#include <soxr.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "media/av_input.h"

namespace nibble {
namespace {
// The mean of a frame's channels, appended; samples are scaled to [-1, 1).
Result<void> append_mono(const AVFrame& frame, std::vector<float>& out) {
  const int channels = frame.ch_layout.nb_channels;
  if (channels <= 0 || frame.nb_samples <= 0) return {};
  const auto format = static_cast<AVSampleFormat>(frame.format);
  const bool planar = av().av_sample_fmt_is_planar(format);
  const auto append = [&](auto type, float offset, float scale) {
    using Sample = decltype(type);
    for (int i = 0; i < frame.nb_samples; ++i) {
      float sum = 0.0f;
      for (int c = 0; c < channels; ++c) {
        const auto* samples = reinterpret_cast<const Sample*>(frame.extended_data[planar ? c : 0]);
        sum += (static_cast<float>(samples[planar ? i : i * channels + c]) - offset) * scale;
      }
      out.push_back(channels == 1 ? sum : sum / static_cast<float>(channels));
    }
  };
  switch (av().av_get_packed_sample_fmt(format)) {
    case AV_SAMPLE_FMT_U8: append(uint8_t{}, 128.0f, 1.0f / 128); return {};
    case AV_SAMPLE_FMT_S16: append(int16_t{}, 0.0f, 1.0f / 32768); return {};
    case AV_SAMPLE_FMT_S32: append(int32_t{}, 0.0f, 1.0f / 2147483648.0f); return {};
    case AV_SAMPLE_FMT_FLT: append(float{}, 0.0f, 1.0f); return {};
    case AV_SAMPLE_FMT_DBL: append(double{}, 0.0f, 1.0f); return {};
    default: return fail(ErrorCode::unsupported, "audio samples of an unknown format");
  }
}

// A RIFF file whose data chunk says that it is longer than the file was cut off. Sizes that a pipe leaves open are no promise.
bool is_cut_wav(std::span<const std::byte> bytes) {
  const auto u32 = [&](size_t at) {
    uint32_t v;
    std::memcpy(&v, bytes.data() + at, 4);
    return v;
  };
  if (bytes.size() < 12 || std::memcmp(bytes.data(), "RIFF", 4) != 0 || std::memcmp(bytes.data() + 8, "WAVE", 4) != 0) return false;
  for (size_t at = 12; at + 8 <= bytes.size();) {
    const uint32_t size = u32(at + 4);
    if (std::memcmp(bytes.data() + at, "data", 4) == 0) return size < 0x7fffff00u && at + 8 + size > bytes.size();
    at += 8 + size_t{size} + (size & 1);
  }
  return true;
}
}  // namespace

Result<AudioClip> decode_audio(std::span<const std::byte> bytes, const AudioLimits& limits) {
  if (is_cut_wav(bytes)) return fail(ErrorCode::corrupt, "broken WAV file: it ends early");
  auto input = AvInput::open(bytes, AVMEDIA_TYPE_AUDIO);
  if (!input) return tl::unexpected(std::move(input).error());
  AudioClip clip;
  int rate = 0;
  while (true) {
    const auto frame = (*input)->next_frame();
    if (!frame) return tl::unexpected(frame.error());
    if (!*frame) break;
    if (rate == 0) rate = (*frame)->sample_rate;
    if (rate <= 0 || (*frame)->sample_rate != rate) return fail(ErrorCode::corrupt, "broken audio: its sample rate changes");
    if (auto added = append_mono(**frame, clip.samples); !added) return tl::unexpected(added.error());
    if (static_cast<int64_t>(clip.samples.size()) > limits.max_seconds * rate) return fail(ErrorCode::invalid_argument, "the audio is longer than {} s", limits.max_seconds);
  }
  if (clip.samples.empty()) return fail(ErrorCode::invalid_argument, "the audio is empty");
  for (const float s : clip.samples) {
    if (!std::isfinite(s)) return fail(ErrorCode::corrupt, "broken audio: a sample is not a number");
  }
  if (rate != kAudioRate) {
    const size_t room = static_cast<size_t>(static_cast<double>(clip.samples.size()) * kAudioRate / rate) + 64;
    std::vector<float> resampled(room);
    size_t made = 0;
    const soxr_quality_spec_t quality = soxr_quality_spec(SOXR_HQ, 0);
    const soxr_error_t error = soxr_oneshot(rate, kAudioRate, 1, clip.samples.data(), clip.samples.size(), nullptr, resampled.data(), room, &made, nullptr, &quality, nullptr);
    if (error) return fail(ErrorCode::invalid_argument, "audio at {} Hz cannot be resampled: {}", rate, error);
    resampled.resize(made);
    clip.samples = std::move(resampled);
    if (clip.samples.empty()) return fail(ErrorCode::invalid_argument, "the audio is empty");
  }
  return clip;
}

AudioFrames audio_frames(const AudioClip& clip) {
  AudioFrames frames{.samples = clip.samples};
  frames.samples.resize((clip.samples.size() + kFrameSamples - 1) / kFrameSamples * kFrameSamples, 0.0f);
  return frames;
}
}  // namespace nibble
