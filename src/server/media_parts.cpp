#include "server/media_parts.h"

#include <algorithm>
#include <array>
#include <filesystem>

#include "base/file_io.h"
#include "media/audio.h"
#include "media/video.h"

namespace nibble {
namespace {
constexpr size_t kMaxBytes = size_t{64} << 20;
constexpr std::string_view kVideoPlaceholder = "<|video|>";

std::array<int8_t, 256> make_base64_values() {
  std::array<int8_t, 256> values;
  values.fill(-1);
  constexpr std::string_view kAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  for (size_t i = 0; i < kAlphabet.size(); ++i) values[static_cast<unsigned char>(kAlphabet[i])] = static_cast<int8_t>(i);
  for (const char space : {' ', '\t', '\r', '\n'}) values[static_cast<unsigned char>(space)] = -2;
  return values;
}

Result<std::string> decode_base64(std::string_view text) {
  static const std::array<int8_t, 256> kValues = make_base64_values();
  std::string out;
  out.reserve(text.size() / 4 * 3 + 3);
  uint32_t bits = 0;
  int count = 0, padding = 0;
  for (const char c : text) {
    const int value = kValues[static_cast<unsigned char>(c)];
    if (value == -2) continue;
    if (c == '=') {
      ++padding;
      continue;
    }
    if (value < 0 || padding > 0) return fail(ErrorCode::invalid_argument, "the data is not base64");
    bits = bits << 6 | static_cast<uint32_t>(value);
    if (++count == 4) {
      out += static_cast<char>(bits >> 16 & 255);
      out += static_cast<char>(bits >> 8 & 255);
      out += static_cast<char>(bits & 255);
      count = 0;
      bits = 0;
    }
  }
  if (count == 1 || padding > 2) return fail(ErrorCode::invalid_argument, "the data is not base64");
  if (count >= 2) out += static_cast<char>(bits >> (count == 2 ? 4 : 10) & 255);
  if (count == 3) out += static_cast<char>(bits >> 2 & 255);
  if (out.empty()) return fail(ErrorCode::invalid_argument, "the data is empty");
  return out;
}

bool begins_with_word(std::string_view text, std::string_view word) {
  if (text.size() < word.size()) return false;
  for (size_t i = 0; i < word.size(); ++i) {
    if (std::tolower(static_cast<unsigned char>(text[i])) != word[i]) return false;
  }
  return true;
}

Result<std::string> read_local(std::string_view url, const std::string& allowed) {
  if (allowed.empty()) return fail(ErrorCode::invalid_argument, "files are not read from here; send a data: URL, or start the server with --allowed-local-media-path");
  if (url.starts_with("file://")) url.remove_prefix(7);
  std::error_code error;
  const auto root = std::filesystem::canonical(allowed, error);
  const auto path = error ? std::filesystem::path() : std::filesystem::canonical(std::filesystem::path(url), error);
  const auto relative = error ? std::filesystem::path() : path.lexically_relative(root);
  if (error || relative.empty() || *relative.begin() == ".." || !std::filesystem::is_regular_file(path, error)) {
    return fail(ErrorCode::invalid_argument, "there is no such file under the folder of --allowed-local-media-path");
  }
  if (std::filesystem::file_size(path, error) > kMaxBytes || error) return fail(ErrorCode::invalid_argument, "the file is larger than {} MiB", kMaxBytes >> 20);
  return read_file(path);
}

Result<std::string> fetch(const std::string& url, const MediaOptions& options) {
  if (begins_with_word(url, "http://") || begins_with_word(url, "https://")) {
    if (!options.fetch.domains.empty()) return fetch_url(url, options.fetch);
    return fail(ErrorCode::invalid_argument, "this server fetches nothing over the network; send the data itself, as a data: URL, or start it with --allowed-media-domains");
  }
  if (begins_with_word(url, "file://") || url.starts_with("./") || url.starts_with("../") || (url.starts_with("/") && url.find('.') != std::string::npos)) return read_local(url, options.local_path);
  auto data = decode_base64_url(url);
  if (data && data->size() > kMaxBytes) return fail(ErrorCode::invalid_argument, "the data has more than {} MiB", kMaxBytes >> 20);
  return data;
}

int32_t budget_of(const MediaReference& reference, const MediaOptions& options, int32_t default_budget) {
  const int32_t standard = default_budget > 0 ? default_budget : options.image_budget;
  if (reference.detail.empty() || reference.detail == "auto") return standard;
  if (reference.detail == "low") return 70;
  if (reference.detail == "high") return 1120;
  throw Error(ErrorCode::invalid_argument, fmt::format("unknown detail '{}'; wanted low, high or auto", reference.detail), reference.param);
}

SoftTokens picture(ImagePatches patches, SoftTokens::Kind kind, const MediaOptions& options) {
  SoftTokens tokens{.kind = kind, .count = patches.num_patches(), .columns = patches.columns};
  if (tokens.columns > options.most_positions || tokens.count / tokens.columns > options.most_positions) {
    throw Error(ErrorCode::invalid_argument, fmt::format("the picture is too long for this model: {} x {} patches, at most {} a side", tokens.columns, tokens.count / tokens.columns, options.most_positions));
  }
  tokens.patches = std::move(patches.pixels);
  tokens.content = hash_bytes(std::as_bytes(std::span(tokens.patches)), {static_cast<uint64_t>(tokens.columns), 1});
  return tokens;
}

PreparedMedia prepare(const MediaReference& reference, const MediaOptions& options, int32_t default_budget) {
  const std::string data = value_or_raise(fetch(reference.url, options));
  const auto bytes = std::as_bytes(std::span(data));
  PreparedMedia out{.kind = reference.kind, .blocks = {}, .stamps = {}};
  switch (reference.kind) {
    case MediaKind::image: {
      const Image image = value_or_raise(decode_image(bytes));
      out.blocks.push_back(picture(value_or_raise(image_patches(image, budget_of(reference, options, default_budget))), SoftTokens::Kind::image, options));
      break;
    }
    case MediaKind::video:
      for (VideoFrame& frame : value_or_raise(decode_video(bytes, {.num_frames = options.num_frames, .budget = options.video_budget}))) {
        out.stamps.push_back(video_stamp(frame.seconds));
        out.blocks.push_back(picture(std::move(frame.patches), SoftTokens::Kind::video, options));
      }
      break;
    case MediaKind::audio: {
      AudioFrames frames = audio_frames(value_or_raise(decode_audio(bytes)));
      SoftTokens tokens{.kind = SoftTokens::Kind::audio, .count = frames.num_frames()};
      tokens.frames = std::move(frames.samples);
      tokens.content = hash_bytes(std::as_bytes(std::span(tokens.frames)), {0, 2});
      out.blocks.push_back(std::move(tokens));
    }
  }
  return out;
}
}  // namespace

Result<std::string> decode_base64_url(std::string_view text) {
  if (!begins_with_word(text, "data:")) return decode_base64(text);
  const size_t comma = text.substr(0, 1024).find(',');
  if (comma == std::string_view::npos || !text.substr(0, comma).ends_with(";base64")) return fail(ErrorCode::invalid_argument, "a data: URL must have the form data:TYPE;base64,DATA");
  return decode_base64(text.substr(comma + 1));
}

std::vector<PreparedMedia> prepare_media(std::span<const MediaReference> references, const MediaOptions& options, int32_t default_budget) {
  int32_t images = 0, audios = 0, videos = 0;
  for (const MediaReference& r : references) {
    const bool is_audio = r.kind == MediaKind::audio;
    if (is_audio ? !options.audio : !options.images) {
      throw Error(ErrorCode::invalid_argument, fmt::format("{} not available: this model, or the device that it runs on, does not take them", is_audio ? "audio is" : "images and video are"), r.param);
    }
    int32_t& count = is_audio ? audios : r.kind == MediaKind::image ? images : videos;
    const int32_t most = is_audio ? options.max_audios : r.kind == MediaKind::image ? options.max_images : options.max_videos;
    if (++count > most) throw Error(ErrorCode::invalid_argument, fmt::format("too many media of one kind: at most {}; see --limit-mm-data-per-request", most), r.param);
  }
  std::vector<PreparedMedia> media;
  for (const MediaReference& r : references) {
    try {
      media.push_back(prepare(r, options, default_budget));
    } catch (const Error& error) {
      // Whatever is wrong with the bytes is the request's fault.
      throw Error(error.code == ErrorCode::out_of_memory ? error.code : ErrorCode::invalid_argument, error.message, error.param.empty() ? r.param : error.param);
    }
  }
  return media;
}

MarkedText spell_out_videos(const MarkedText& prompt, std::span<const PreparedMedia> media) {
  std::vector<const PreparedMedia*> videos;
  for (const PreparedMedia& m : media) {
    if (m.kind == MediaKind::video) videos.push_back(&m);
  }
  MarkedText out;
  size_t at = 0, next = 0;
  const auto copy_to = [&](size_t end) {
    out.text.append(prompt.text, at, end - at);
    at = end;
  };
  for (const TextSpan& span : prompt.trusted) {
    copy_to(span.begin);
    TextSpan moved{out.text.size(), 0};
    while (next < videos.size()) {
      const size_t found = std::string_view(prompt.text).substr(0, span.end).find(kVideoPlaceholder, at);
      if (found == std::string_view::npos) break;
      copy_to(found);
      at += kVideoPlaceholder.size();
      const PreparedMedia& video = *videos[next++];
      for (size_t i = 0; i < video.stamps.size(); ++i) out.text += (i ? " " : "") + video.stamps[i] + " " + std::string(kVideoPlaceholder);
    }
    copy_to(span.end);
    moved.end = out.text.size();
    out.trusted.push_back(moved);
  }
  copy_to(prompt.text.size());
  return out;
}

std::vector<SoftTokens> expand_media(std::vector<int32_t>& ids, std::vector<PreparedMedia> media, const MediaOptions& options) {
  std::vector<SoftTokens> blocks;
  for (PreparedMedia& m : media) {
    for (SoftTokens& block : m.blocks) blocks.push_back(std::move(block));
  }
  const auto is_placeholder = [&](int32_t id) { return id >= 0 && (id == options.image_id || id == options.audio_id || id == options.video_id); };
  const auto mismatch = [&]() -> Error {
    const auto count = std::count_if(ids.begin(), ids.end(), is_placeholder);
    return {ErrorCode::invalid_argument, fmt::format("the prompt has {} places for media, or not in this order; the request brings {}", count, blocks.size()), "messages"};
  };
  std::vector<int32_t> out;
  size_t next = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    const int32_t id = ids[i];
    if (!is_placeholder(id)) {
      out.push_back(id);
      continue;
    }
    if (next == blocks.size()) throw mismatch();
    SoftTokens& block = blocks[next++];
    const int32_t wanted = block.kind == SoftTokens::Kind::image ? options.image_id : block.kind == SoftTokens::Kind::video ? options.video_id : options.audio_id;
    if (id != wanted) throw mismatch();
    const int32_t begin = block.is_picture() ? options.boi_id : options.boa_id, end = block.is_picture() ? options.eoi_id : options.eoa_id;
    const bool wrapped = i > 0 && i + 1 < ids.size() && ids[i - 1] == begin && ids[i + 1] == end;
    if (!wrapped && begin >= 0) out.push_back(begin);
    block.first_position = static_cast<int32_t>(out.size());
    out.insert(out.end(), static_cast<size_t>(block.count), id);
    if (!wrapped && end >= 0) out.push_back(end);
  }
  if (next != blocks.size()) throw mismatch();
  ids = std::move(out);
  return blocks;
}
}  // namespace nibble
