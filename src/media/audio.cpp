#include "media/audio.h"

#include <soxr.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>

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

// To 16 kHz, piece by piece.
class Resampler {
 public:
  explicit Resampler(int rate) : ratio_(static_cast<double>(kAudioRate) / rate) {
    const soxr_quality_spec_t quality = soxr_quality_spec(SOXR_HQ, 0);
    soxr_.reset(soxr_create(rate, kAudioRate, 1, nullptr, nullptr, &quality, nullptr));
  }
  bool works() const { return soxr_ != nullptr; }
  void push(std::span<const float> samples, std::vector<float>& out) {
    // More than this piece gives may come out: what the filter held back.
    process(samples, out, static_cast<size_t>(static_cast<double>(samples.size()) * ratio_) + 4096);
  }
  void finish(std::vector<float>& out) {
    while (process({}, out, 4096) > 0) {
    }
  }

 private:
  size_t process(std::span<const float> samples, std::vector<float>& out, size_t room) {
    const size_t before = out.size();
    size_t made_here = 0, used = 0;
    do {
      size_t taken = 0, made = 0;
      const size_t at = out.size();
      out.resize(at + room);
      const std::span<const float> rest = samples.subspan(used);
      soxr_process(soxr_.get(), samples.empty() ? nullptr : rest.data(), rest.size(), &taken, out.data() + at, room, &made);
      out.resize(at + made);
      used += taken;
      made_here = taken + made;
    } while (used < samples.size() && made_here > 0);
    return out.size() - before;
  }

  struct Delete {
    void operator()(soxr_t soxr) const { soxr_delete(soxr); }
  };
  double ratio_;
  std::unique_ptr<soxr, Delete> soxr_;
};

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
  std::unique_ptr<Resampler> resampler;  // where the rate is another
  std::vector<float> samples;            // of one frame: at its own rate a small file can be gigabytes
  int64_t num_samples = 0;
  int rate = 0;
  while (true) {
    const auto frame = (*input)->next_frame();
    if (!frame) return tl::unexpected(frame.error());
    if (!*frame) break;
    if (rate == 0) {
      rate = (*frame)->sample_rate;
      if (rate > 0 && rate != kAudioRate) {
        resampler = std::make_unique<Resampler>(rate);
        if (!resampler->works()) return fail(ErrorCode::invalid_argument, "audio at {} Hz cannot be resampled", rate);
      }
    }
    if (rate <= 0 || (*frame)->sample_rate != rate) return fail(ErrorCode::corrupt, "broken audio: its sample rate changes");
    std::vector<float>& out = resampler ? samples : clip.samples;
    const size_t before = resampler ? 0 : out.size();
    out.resize(before);
    if (auto added = append_mono(**frame, out); !added) return tl::unexpected(added.error());
    num_samples += static_cast<int64_t>(out.size() - before);
    if (num_samples > limits.max_seconds * rate) return fail(ErrorCode::invalid_argument, "the audio is longer than {} s", limits.max_seconds);
    if (!std::all_of(out.begin() + static_cast<int64_t>(before), out.end(), [](float s) { return std::isfinite(s); })) return fail(ErrorCode::corrupt, "broken audio: a sample is not a number");
    if (resampler) resampler->push(samples, clip.samples);
  }
  if (num_samples == 0) return fail(ErrorCode::invalid_argument, "the audio is empty");
  if (resampler) resampler->finish(clip.samples);
  if (clip.samples.empty()) return fail(ErrorCode::invalid_argument, "the audio is empty");
  return clip;
}

AudioFrames audio_frames(const AudioClip& clip) {
  AudioFrames frames{.samples = clip.samples};
  frames.samples.resize((clip.samples.size() + kFrameSamples - 1) / kFrameSamples * kFrameSamples, 0.0f);
  return frames;
}
}  // namespace nibble
