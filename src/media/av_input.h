// A container in memory, opened by libav. It can read these bytes and nothing else: no file, no network, none of the formats that refer to other places.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "base/clock.h"
#include "base/error.h"
#include "media/av_library.h"

namespace nibble {
inline constexpr double kMaxDecodeSeconds = 60;  // of one file: a small one can hold hours of large frames

class AvInput {
 public:
  // Opens the container and a decoder for its best stream of this type. corrupt when there is none.
  static Result<std::unique_ptr<AvInput>> open(std::span<const std::byte> bytes, AVMediaType type, double max_seconds = kMaxDecodeSeconds);
  ~AvInput();
  AvInput(const AvInput&) = delete;
  AvInput& operator=(const AvInput&) = delete;

  // The next packet of the stream; false at the end.
  bool next_packet();
  AVPacket* packet() { return packet_; }
  // The next decoded frame; nullptr at the end. corrupt when the decoder refuses a packet, invalid_argument when decoding takes longer than `max_seconds`.
  Result<AVFrame*> next_frame();
  bool rewind();

  const AVStream& stream() const { return *format_->streams[stream_]; }
  AVCodecContext& decoder() { return *decoder_; }
  AVFormatContext& format() { return *format_; }

 private:
  AvInput(std::span<const std::byte> bytes, double max_seconds) : bytes_(bytes), max_seconds_(max_seconds), began_(monotonic_seconds()) {}
  static int read(void* self, uint8_t* to, int n);
  static int64_t seek(void* self, int64_t offset, int whence);

  std::span<const std::byte> bytes_;
  size_t at_ = 0;
  AVIOContext* io_ = nullptr;
  AVFormatContext* format_ = nullptr;
  AVCodecContext* decoder_ = nullptr;
  AVPacket* packet_ = nullptr;
  AVFrame* frame_ = nullptr;
  int stream_ = -1;
  bool draining_ = false;
  double max_seconds_, began_;
};

std::string av_message(int status);
}  // namespace nibble
