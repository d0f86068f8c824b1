#include "media/video.h"

#include <cmath>

#include "media/av_input.h"

namespace nibble {
namespace {
constexpr double kUnknownRate = 24.0;

struct FreeScaler {
  void operator()(SwsContext* scaler) const { av().sws_freeContext(scaler); }
};

Result<Image> to_rgb(const AVFrame& frame) {
  if (auto size = frame.width > 0 && frame.height > 0; !size) return fail(ErrorCode::corrupt, "broken video: an empty frame");
  Image image{.width = frame.width, .height = frame.height, .rgb = std::vector<uint8_t>(static_cast<size_t>(frame.width) * static_cast<size_t>(frame.height) * 3)};
  const std::unique_ptr<SwsContext, FreeScaler> scaler(av().sws_getContext(frame.width, frame.height, static_cast<AVPixelFormat>(frame.format), frame.width, frame.height, AV_PIX_FMT_RGB24,
                                                                      SWS_BICUBIC | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INT, nullptr, nullptr, nullptr));
  if (!scaler) return fail(ErrorCode::unsupported, "video frames of an unknown pixel format");
  uint8_t* planes[4] = {image.rgb.data(), nullptr, nullptr, nullptr};
  const int strides[4] = {frame.width * 3, 0, 0, 0};
  av().sws_scale(scaler.get(), frame.data, frame.linesize, 0, frame.height, planes, strides);
  return image;
}
}  // namespace

std::string video_stamp(double seconds) {
  const auto whole = static_cast<int64_t>(seconds);
  return fmt::format("{:02}:{:02}", whole / 60, whole % 60);
}

Result<std::vector<VideoFrame>> decode_video(std::span<const std::byte> bytes, const VideoOptions& options) {
  // Frames are counted in a first pass over the packets: what the header says need not be true.
  int64_t total = 0;
  double rate = kUnknownRate;
  {
    auto input = AvInput::open(bytes, AVMEDIA_TYPE_VIDEO);
    if (!input) return tl::unexpected(std::move(input).error());
    while ((*input)->next_packet()) {
      if (++total > options.max_frames) return fail(ErrorCode::invalid_argument, "the video has more than {} frames", options.max_frames);
    }
    const AVRational frame_rate = (*input)->stream().avg_frame_rate;
    if (frame_rate.num > 0 && frame_rate.den > 0) rate = av_q2d(frame_rate);
  }
  if (total == 0) return fail(ErrorCode::invalid_argument, "the video is empty");
  auto input = AvInput::open(bytes, AVMEDIA_TYPE_VIDEO);
  if (!input) return tl::unexpected(std::move(input).error());
  const int64_t wanted = std::min<int64_t>(options.num_frames, total);
  std::vector<VideoFrame> frames;
  int32_t width = 0, height = 0;
  for (int64_t index = 0; static_cast<int64_t>(frames.size()) < wanted; ++index) {
    const auto frame = (*input)->next_frame();
    if (!frame) return tl::unexpected(frame.error());
    if (!*frame) break;  // fewer pictures than packets
    if (index != static_cast<int64_t>(frames.size()) * total / wanted) continue;
    if (frames.empty()) width = (*frame)->width, height = (*frame)->height;
    if ((*frame)->width != width || (*frame)->height != height) return fail(ErrorCode::unsupported, "the video's size changes from {} x {} to {} x {}", width, height, (*frame)->width, (*frame)->height);
    const auto image = to_rgb(**frame);
    if (!image) return tl::unexpected(image.error());
    auto patches = image_patches(*image, options.budget);
    if (!patches) return tl::unexpected(patches.error());
    frames.push_back({*std::move(patches), static_cast<double>(index) / rate});
  }
  if (frames.empty()) return fail(ErrorCode::corrupt, "broken video: no frame can be decoded");
  return frames;
}
}  // namespace nibble
