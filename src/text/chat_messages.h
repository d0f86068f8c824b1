// Messages of an OpenAI chat request, brought into the form that chat templates want.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "base/error.h"

namespace nibble {
enum class MediaKind { image, audio, video };

struct MediaReference {
  MediaKind kind;
  std::string url;    // as sent, or a data: URL made from input_audio
  std::string detail; // of image_url; may be empty
  std::string param;  // the request field, "messages[0].content[1]"
};

struct NormalizeOptions {
  bool name_tool_messages = true;  // give `tool` messages the name of the call that they answer
};

// Rewrites `messages` in place: roles checked and lower-cased, nulls dropped, content parts typed, media collected in order, tool-call arguments parsed, tool
// messages named. invalid_argument with the field's path otherwise.
Result<std::vector<MediaReference>> normalize_messages(nlohmann::ordered_json& messages, const NormalizeOptions& options = {});
}  // namespace nibble
