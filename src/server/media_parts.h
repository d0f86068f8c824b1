// Images, audio and video of a chat request: from where the client says they are to soft tokens in the prompt.
//
// Bytes come from data: URLs, bare base64, and, where the server allows them, files under a folder and http(s) URLs (media_fetch.h).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "model/soft_tokens.h"
#include "server/media_fetch.h"
#include "text/chat_messages.h"
#include "text/jinja.h"

namespace nibble {
struct MediaOptions {
  bool images = false, audio = false;      // what the model takes here; video is images
  int32_t image_budget = 280, video_budget = 70, num_frames = 32;
  int32_t most_positions = 1120;           // of the model's table, across and down
  int32_t max_images = 64, max_audios = 16, max_videos = 4;
  std::string local_path;                  // files under it may be named; empty: none
  FetchOptions fetch;                      // hosts that may be asked; none at first
  // Ids around and in place of soft tokens; -1: not named.
  int32_t image_id = -1, audio_id = -1, video_id = -1, boi_id = -1, eoi_id = -1, boa_id = -1, eoa_id = -1;
};

// What one reference became: one block, or one per frame of a video.
struct PreparedMedia {
  MediaKind kind = MediaKind::image;
  std::vector<SoftTokens> blocks;
  std::vector<std::string> stamps;  // of a video's blocks, "MM:SS"
};

// `default_budget`: the request's soft tokens per image, 0: the server's. Decodes and resamples, so it takes its time: not for a thread that others wait for.
// Throws Error(invalid_argument) that names the part.
std::vector<PreparedMedia> prepare_media(std::span<const MediaReference> references, const MediaOptions& options, int32_t default_budget);

// Every placeholder of a video that the template wrote becomes one per frame, each behind its time.
MarkedText spell_out_videos(const MarkedText& prompt, std::span<const PreparedMedia> media);

// Placeholders in `ids`, in order, become runs between their begin and end tokens. Throws Error when they are not as many as the media.
std::vector<SoftTokens> expand_media(std::vector<int32_t>& ids, std::vector<PreparedMedia> media, const MediaOptions& options);

// The bytes of a data: URL or of bare base64; the media type is ignored.
Result<std::string> decode_base64_url(std::string_view text);
}  // namespace nibble
