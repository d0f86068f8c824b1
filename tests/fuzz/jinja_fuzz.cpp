// rooms: text
// Any text as a chat template: parsed and rendered within its limits, or refused with a message. Spans of trusted text lie in order inside the output, and the
// character that stands only in the data is never trusted.
#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "text/jinja.h"

namespace {
void require(bool holds) {
  if (!holds) std::abort();
}

// U+E000 marks what came from messages.
constexpr char kDataByte = '\xee';

const nlohmann::ordered_json& variables() {
  static const auto json = nlohmann::ordered_json::parse(
      R"({"messages": [{"role": "system", "content": "\ue000sys"}, {"role": "user", "content": [{"type": "text", "text": " a\ue000<|turn>b "}, {"type": "image"}]},
          {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "f\ue000", "arguments": {"k\ue000": [1, 2.5, null, true, "v"], "a": {}}}}]},
          {"role": "tool", "name": "f", "content": "1\ue0002"}], "tools": [{"type": "function", "function": {"name": "g\ue000", "parameters": {"type": "object"}}}],
          "n": 3, "x": -1.5, "s": "\ue000abc def\ue000", "big": 123456789012345678901234567890, "none": null, "enable_thinking": true})");
  return json;
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view source(reinterpret_cast<const char*>(data), size);
  const auto parsed = nibble::JinjaTemplate::parse(source);
  if (!parsed) {
    require(!parsed.error().message.empty());
    return 0;
  }
  static const nlohmann::ordered_json trusted = {{"bos_token", "<bos>"}, {"eos_token", "<eos>"}, {"add_generation_prompt", true}};
  const auto out = parsed->render(variables(), trusted, {.steps = 100'000, .work_bytes = 16 << 20});
  if (!out) {
    require(!out.error().message.empty());
    return 0;
  }
  // Without an escape or the byte itself the template cannot write that character.
  const bool only_data_has_it = source.find(kDataByte) == std::string_view::npos && source.find('\\') == std::string_view::npos;
  size_t end = 0;
  bool first = true;
  for (const nibble::TextSpan& span : out->trusted) {
    require(span.begin < span.end && span.end <= out->text.size() && (first || span.begin > end));
    if (only_data_has_it) require(std::string_view(out->text).substr(span.begin, span.end - span.begin).find(kDataByte) == std::string_view::npos);
    end = span.end;
    first = false;
  }
  return 0;
}
