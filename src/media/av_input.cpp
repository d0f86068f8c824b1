#include "media/av_input.h"

#include <algorithm>
#include <cstring>

namespace nibble {
namespace {
constexpr int kBufferBytes = 64 << 10;
// Self-contained formats only.
constexpr const char* kFormats = "wav,w64,flac,ogg,mp3,aac,aiff,au,mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,asf,flv,gif,h264,hevc,amr,caf,opus";

int refuse_to_open(AVFormatContext*, AVIOContext**, const char*, int, AVDictionary**) { return AVERROR(EACCES); }
}  // namespace

std::string av_message(int status) {
  char text[AV_ERROR_MAX_STRING_SIZE] = "";
  av().av_strerror(status, text, sizeof text);
  return text;
}

int AvInput::read(void* self, uint8_t* to, int n) {
  AvInput& input = *static_cast<AvInput*>(self);
  const size_t count = std::min(static_cast<size_t>(n), input.bytes_.size() - input.at_);
  if (count == 0) return AVERROR_EOF;
  std::memcpy(to, input.bytes_.data() + input.at_, count);
  input.at_ += count;
  return static_cast<int>(count);
}

int64_t AvInput::seek(void* self, int64_t offset, int whence) {
  AvInput& input = *static_cast<AvInput*>(self);
  const auto size = static_cast<int64_t>(input.bytes_.size());
  if (whence & AVSEEK_SIZE) return size;
  const int64_t from = (whence & 3) == SEEK_CUR ? static_cast<int64_t>(input.at_) : (whence & 3) == SEEK_END ? size : 0;
  if (offset < -from || from + offset > size) return AVERROR(EINVAL);
  input.at_ = static_cast<size_t>(from + offset);
  return from + offset;
}

Result<std::unique_ptr<AvInput>> AvInput::open(std::span<const std::byte> bytes, AVMediaType type, double max_seconds) {
  const char* what = type == AVMEDIA_TYPE_AUDIO ? "audio" : "video";
  const auto library = load_av_library();
  if (!library) return tl::unexpected(library.error());
  std::unique_ptr<AvInput> input(new AvInput(bytes, max_seconds));
  auto* buffer = static_cast<unsigned char*>(av().av_malloc(kBufferBytes));
  input->io_ = buffer ? av().avio_alloc_context(buffer, kBufferBytes, 0, input.get(), read, nullptr, seek) : nullptr;
  input->format_ = av().avformat_alloc_context();
  input->packet_ = av().av_packet_alloc();
  input->frame_ = av().av_frame_alloc();
  if (!input->io_ || !input->format_ || !input->packet_ || !input->frame_) return fail(ErrorCode::out_of_memory, "no memory to read {}", what);
  input->format_->pb = input->io_;
  input->format_->format_whitelist = av().av_strdup(kFormats);
  input->format_->protocol_whitelist = av().av_strdup("none");
  input->format_->io_open = refuse_to_open;
  input->format_->max_streams = 16;
  // On failure this frees the context.
  if (const int status = av().avformat_open_input(&input->format_, "", nullptr, nullptr); status < 0) {
    return fail(ErrorCode::corrupt, "the {} bytes are no {} that is known here: {}", bytes.size(), what, av_message(status));
  }
  if (const int status = av().avformat_find_stream_info(input->format_, nullptr); status < 0) return fail(ErrorCode::corrupt, "broken {}: {}", what, av_message(status));
  const AVCodec* codec = nullptr;
  input->stream_ = av().av_find_best_stream(input->format_, type, -1, -1, &codec, 0);
  if (input->stream_ < 0 || !codec) return fail(ErrorCode::corrupt, "the file has no {} stream that can be decoded", what);
  input->decoder_ = av().avcodec_alloc_context3(codec);
  if (!input->decoder_) return fail(ErrorCode::out_of_memory, "no memory to read {}", what);
  av().avcodec_parameters_to_context(input->decoder_, input->stream().codecpar);
  input->decoder_->thread_count = 1;
  input->decoder_->max_pixels = 36 << 20;  // 8192 x 4608; a decoder may hold sixteen of them
  input->decoder_->err_recognition = AV_EF_CRCCHECK | AV_EF_BITSTREAM | AV_EF_BUFFER | AV_EF_EXPLODE;
  if (const int status = av().avcodec_open2(input->decoder_, codec, nullptr); status < 0) return fail(ErrorCode::corrupt, "broken {}: {}", what, av_message(status));
  return input;
}

AvInput::~AvInput() {
  av().av_frame_free(&frame_);
  av().av_packet_free(&packet_);
  av().avcodec_free_context(&decoder_);
  av().avformat_close_input(&format_);
  if (io_) av().av_freep(&io_->buffer);
  av().avio_context_free(&io_);
}

bool AvInput::next_packet() {
  while (true) {
    av().av_packet_unref(packet_);
    if (av().av_read_frame(format_, packet_) < 0) return false;
    if (packet_->stream_index == stream_) return true;
  }
}

Result<AVFrame*> AvInput::next_frame() {
  while (true) {
    if (monotonic_seconds() - began_ > max_seconds_) return fail(ErrorCode::invalid_argument, "it takes longer than {} s to decode; send less of it", max_seconds_);
    const int got = av().avcodec_receive_frame(decoder_, frame_);
    if (got == 0) return frame_;
    if (got == AVERROR_EOF) return nullptr;
    if (got != AVERROR(EAGAIN)) return fail(ErrorCode::corrupt, "a frame cannot be decoded: {}", av_message(got));
    if (!draining_ && next_packet()) {
      if (const int sent = av().avcodec_send_packet(decoder_, packet_); sent < 0) return fail(ErrorCode::corrupt, "a packet cannot be decoded: {}", av_message(sent));
    } else {
      draining_ = true;
      av().avcodec_send_packet(decoder_, nullptr);
    }
  }
}

bool AvInput::rewind() {
  draining_ = false;
  av().avcodec_flush_buffers(decoder_);
  return av().av_seek_frame(format_, stream_, stream().start_time == AV_NOPTS_VALUE ? 0 : stream().start_time, AVSEEK_FLAG_BACKWARD) >= 0;
}
}  // namespace nibble
