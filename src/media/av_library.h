// FFmpeg's libraries, loaded when the first sound or video comes. Linked at the program's start they would bring some 130 shared libraries of codecs and
// filters with them, which cost every start 50 ms, and a machine without them could not run the program at all.
//
// The functions have their own names, so that their documentation is libav's. Versions are those that the headers had at the build.
#pragma once

extern "C" {
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libswscale/swscale.h>
}

#include "base/error.h"

// X(library, function)
#define NB_AV_FUNCTIONS(X)                                                                                                                                          \
  X(avutil, av_strerror) X(avutil, av_malloc) X(avutil, av_strdup) X(avutil, av_freep) X(avutil, av_log_set_level) X(avutil, av_frame_alloc) X(avutil, av_frame_free) \
  X(avutil, av_sample_fmt_is_planar) X(avutil, av_get_packed_sample_fmt)                                                                                           \
  X(avcodec, av_packet_alloc) X(avcodec, av_packet_free) X(avcodec, av_packet_unref) X(avcodec, avcodec_alloc_context3) X(avcodec, avcodec_free_context)             \
  X(avcodec, avcodec_parameters_to_context) X(avcodec, avcodec_open2) X(avcodec, avcodec_receive_frame) X(avcodec, avcodec_send_packet)                              \
  X(avcodec, avcodec_flush_buffers)                                                                                                                                \
  X(avformat, avio_alloc_context) X(avformat, avio_context_free) X(avformat, avformat_alloc_context) X(avformat, avformat_open_input)                                \
  X(avformat, avformat_find_stream_info) X(avformat, avformat_close_input) X(avformat, av_find_best_stream) X(avformat, av_read_frame) X(avformat, av_seek_frame)    \
  X(swscale, sws_getContext) X(swscale, sws_scale) X(swscale, sws_freeContext)

namespace nibble {
struct AvLibrary {
#define NB_AV_MEMBER(library, function) decltype(&::function) function;
  NB_AV_FUNCTIONS(NB_AV_MEMBER)
#undef NB_AV_MEMBER
};

// The same answer at every call, from any thread. unsupported: which file is missing and what installs it.
Result<const AvLibrary*> load_av_library();
// After load_av_library() succeeded once.
const AvLibrary& av();
}  // namespace nibble
