// rooms: text
// Any model output, with options in the first byte and cuts in the second: whole, in pieces, byte by byte and through tokens it gives the same message; the deltas
// add up to the calls; arguments of complete calls are JSON; and where thoughts are separated, no thinking marker reaches the client.
#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/utf8.h"
#include "text/output_parser.h"

namespace {
using nibble::OutputDelta;
using nibble::OutputMarker;
using nibble::OutputParser;

void require(bool holds) {
  if (!holds) std::abort();
}

// JSON, but for numbers beyond a double's range, which keep the characters that the model wrote.
bool is_json_object(const std::string& text) {
  std::string out;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    if (in_string && text[i] == '\\') {
      out += text[i++];
    } else if (text[i] == '"') {
      in_string = !in_string;
    } else if (!in_string && (text[i] == 'e' || text[i] == 'E') && i > 0 && text[i - 1] >= '0' && text[i - 1] <= '9') {
      out += "e1";  // a smaller exponent
      const size_t digits = text.find_first_of("0123456789", i);
      i = std::min(text.find_first_not_of("0123456789", digits), text.size()) - 1;
      continue;
    }
    if (i < text.size()) out += text[i];
  }
  return nlohmann::json::parse(out, nullptr, false).is_object();
}

struct Message {
  std::string content, reasoning;
  std::vector<std::string> names, arguments;
  std::vector<bool> complete;
  bool operator==(const Message&) const = default;
};

class Collector {
 public:
  explicit Collector(OutputParser::Options options) : parser_(options) {}

  template <typename Push>
  void step(const Push& push) {
    std::vector<OutputDelta> deltas;
    push(parser_, deltas);
    for (const OutputDelta& d : deltas) add(d);
  }

  Message finish() {
    step([](OutputParser& p, auto& out) { p.finish(out); });
    require(parser_.calls().size() == message_.names.size());
    for (size_t i = 0; i < parser_.calls().size(); ++i) {
      const nibble::ParsedCall& call = parser_.calls()[i];
      require(call.name == message_.names[i] && call.arguments == message_.arguments[i]);
      if (call.complete) require(is_json_object(call.arguments));
      message_.complete.push_back(call.complete);
    }
    return std::move(message_);
  }

 private:
  void add(const OutputDelta& d) {
    require(nibble::is_valid_utf8(d.text));
    switch (d.kind) {
      case OutputDelta::Kind::content: message_.content += d.text; break;
      case OutputDelta::Kind::reasoning: message_.reasoning += d.text; break;
      case OutputDelta::Kind::call_begin:
        require(d.call == static_cast<int>(message_.names.size()));
        message_.names.push_back(d.text);
        message_.arguments.emplace_back();
        break;
      case OutputDelta::Kind::call_arguments: message_.arguments.at(static_cast<size_t>(d.call)) += d.text; break;
    }
  }

  OutputParser parser_;
  Message message_;
};

Message in_pieces(OutputParser::Options options, std::string_view text, uint32_t seed) {
  Collector collector(options);
  for (size_t at = 0; at < text.size();) {
    seed = seed * 1664525 + 1013904223;
    const size_t size = std::min<size_t>(text.size() - at, seed == 0 ? 1 : (seed >> 24) % 13);  // 0: an empty piece
    collector.step([&](OutputParser& p, auto& out) { p.push_text(text.substr(at, size), out); });
    at += size;
  }
  return collector.finish();
}

// As tokens: every marker by its id, the text between as whole characters. `rewrite`: angle brackets of the text become parentheses.
Message as_tokens(OutputParser::Options options, std::string_view text, bool rewrite) {
  Collector collector(options);
  for (size_t at = 0; at < text.size();) {
    bool found = false;
    for (int m = 0; m < 8 && !found; ++m) {
      const std::string_view spelled = nibble::text_of(static_cast<OutputMarker>(m));
      if (!text.substr(at).starts_with(spelled)) continue;
      collector.step([&](OutputParser& p, auto& out) { p.push_marker(static_cast<OutputMarker>(m), out); });
      at += spelled.size();
      found = true;
    }
    if (found) continue;
    const size_t length = nibble::decode_utf8(text, at).length;
    std::string character(text.substr(at, length));
    if (rewrite && character == "<") character = "(";
    collector.step([&](OutputParser& p, auto& out) { p.push_plain(character, out); });
    at += length;
  }
  return collector.finish();
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2 || size > 4096) return 0;
  const OutputParser::Options options{.reasoning = (data[0] & 1) == 0, .tools = (data[0] & 2) == 0, .starts_thinking = (data[0] & 4) != 0};
  const std::string text = nibble::replace_invalid_utf8(std::string_view(reinterpret_cast<const char*>(data + 2), size - 2));

  Collector whole_collector(options);
  whole_collector.step([&](OutputParser& p, auto& out) { p.push_text(text, out); });
  const Message whole = whole_collector.finish();
  require(in_pieces(options, text, data[1]) == whole);
  Collector by_byte(options);
  for (const char& byte : text) by_byte.step([&](OutputParser& p, auto& out) { p.push_text({&byte, 1}, out); });
  require(by_byte.finish() == whole);
  require(as_tokens(options, text, /*rewrite=*/false) == whole);
  const Message tokens = as_tokens(options, text, /*rewrite=*/true);
  if (options.reasoning) {
    for (const OutputMarker m : {OutputMarker::channel_open, OutputMarker::channel_close}) {
      for (const std::string* part : {&tokens.content, &tokens.reasoning}) require(part->find(nibble::text_of(m)) == std::string::npos);
    }
  }
  return 0;
}
