#include "eval/reply_stream.h"

#include <simdjson.h>

namespace nibble {
struct ReplyStream::Parser {
  simdjson::dom::parser json;
  std::string padded;  // the event, with room behind it for the parser's wide reads
  std::string frame_begin, frame_end;  // of the last event that was content and no more: what stood around its text; empty: none
};

ReplyStream::ReplyStream() : parser_(std::make_unique<Parser>()) {}
ReplyStream::~ReplyStream() = default;
ReplyStream::ReplyStream(ReplyStream&&) noexcept = default;
ReplyStream& ReplyStream::operator=(ReplyStream&&) noexcept = default;

void ReplyStream::push(std::string_view bytes, int64_t now_ns) {
  // Events end with an empty line. All that matters here are `data:` lines, one per event as every server in question sends them.
  const auto lines = [&](std::string_view& text) {
    for (size_t end; (end = text.find('\n')) != std::string_view::npos; text.remove_prefix(end + 1)) {
      std::string_view line = text.substr(0, end);
      if (line.ends_with('\r')) line.remove_suffix(1);
      if (!line.starts_with("data:")) continue;
      line.remove_prefix(line.size() > 5 && line[5] == ' ' ? 6 : 5);
      event(line, now_ns);
    }
  };
  if (!held_.empty()) {
    held_ += bytes;
    std::string whole = std::exchange(held_, {});
    std::string_view rest = whole;
    lines(rest);
    held_ = rest;
  } else {
    lines(bytes);
    held_ = bytes;
  }
}

namespace {
bool stands_as_it_is(std::string_view text) {
  bool plain = !text.empty();
  for (const char c : text) plain &= static_cast<unsigned char>(c) >= 0x20 && static_cast<unsigned char>(c) < 0x80 && c != '"' && c != '\\';
  return plain;
}
}  // namespace

// Most events of a stream differ in the text alone. The same bytes around a string without escapes are the same JSON around another string.
bool ReplyStream::event_like_the_last(std::string_view data, int64_t now_ns) {
  const std::string_view begin = parser_->frame_begin, end = parser_->frame_end;
  if (begin.empty() || data.size() <= begin.size() + end.size() || !data.starts_with(begin) || !data.ends_with(end)) return false;
  const std::string_view text = data.substr(begin.size(), data.size() - begin.size() - end.size());
  if (!stands_as_it_is(text)) return false;
  content += text;
  chunk_ns.push_back(now_ns);
  if (first_content_ns == 0) first_content_ns = now_ns;
  return true;
}

void ReplyStream::remember_frame(std::string_view data, std::string_view content) {
  constexpr std::string_view kName = "\"content\"", kKey = "\"content\":\"";  // no part of another string, where its quotes would be escaped
  const size_t key = data.find(kName), at = key + kKey.size();
  const bool once = key != std::string_view::npos && data.find(kName, key + 1) == std::string_view::npos;
  if (!once || !data.substr(key).starts_with(kKey) || !stands_as_it_is(content) || !data.substr(at).starts_with(content) || data.substr(at + content.size()).substr(0, 1) != "\"") return;
  parser_->frame_begin = data.substr(0, at);
  parser_->frame_end = data.substr(at + content.size());
}

void ReplyStream::event(std::string_view data, int64_t now_ns) {
  if (data == "[DONE]") {
    done = true;
    return;
  }
  if (event_like_the_last(data, now_ns)) return;
  const size_t content_before = content.size(), reasoning_before = reasoning.size();
  bool told_more = false;  // than content
  simdjson::dom::element root;
  std::string& padded = parser_->padded;
  padded.reserve(data.size() + simdjson::SIMDJSON_PADDING);
  padded.assign(data);
  simdjson::dom::object fields;
  if (parser_->json.parse(padded.data(), padded.size(), /*realloc_if_needed=*/false).get(root) != simdjson::SUCCESS || root.get(fields) != simdjson::SUCCESS) {
    error = "an event is not JSON";
    return;
  }
  // One pass over the fields: this runs for every token of every stream.
  bool counts = false, plain = false;
  std::string_view text;
  const auto output = [&](const simdjson::dom::element& value, std::string& to) {
    if (value.get(text) != simdjson::SUCCESS || text.empty()) return false;
    to += text;
    return counts = true;
  };
  simdjson::dom::element usage, metrics;
  bool has_usage = false, has_metrics = false;
  for (const auto& [key, value] : fields) {
    simdjson::dom::array choices, calls;
    if (key == "choices" && value.get(choices) == simdjson::SUCCESS) {
      for (const simdjson::dom::element item : choices) {
        simdjson::dom::object choice, delta;
        if (item.get(choice) != simdjson::SUCCESS) continue;
        for (const auto& [name, part] : choice) {
          if (name == "finish_reason" && part.get(text) == simdjson::SUCCESS) finish_reason = text, told_more = true;
          if (name == "text") plain |= output(part, content), told_more = true;
          if (name != "delta" || part.get(delta) != simdjson::SUCCESS) continue;
          for (const auto& [kind, piece] : delta) {
            if (kind == "content") plain |= output(piece, content);
            if (kind == "reasoning_content") output(piece, reasoning);
            if (kind == "tool_calls" && piece.get(calls) == simdjson::SUCCESS && calls.size() > 0) counts = plain = told_more = true;
          }
        }
      }
    } else if (key == "usage" && value.is_object()) {
      usage = value;
      has_usage = true;
    } else if (key == "metrics" && value.is_object()) {
      metrics = value;
      has_metrics = true;
    } else if (key == "error" && !value.is_null()) {
      error = value["message"].get(text) == simdjson::SUCCESS ? std::string(text) : "the server reported an error";
      return;
    }
  }
  told_more |= has_usage || has_metrics || reasoning.size() > reasoning_before;
  if (!told_more) remember_frame(data, std::string_view(content).substr(content_before));
  if (counts) chunk_ns.push_back(now_ns);
  if (plain && first_content_ns == 0) first_content_ns = now_ns;

  if (has_usage) {
    int64_t n;
    if (usage["prompt_tokens"].get(n) == simdjson::SUCCESS) prompt_tokens = n;
    if (usage["completion_tokens"].get(n) == simdjson::SUCCESS) {
      completion_tokens = n;
      if (counts && chunk_ns.size() == 1) first_chunk_tokens = n;
    }
    if (usage["completion_tokens_details"]["reasoning_tokens"].get(n) == simdjson::SUCCESS) reasoning_tokens = n;
    if (usage["prompt_tokens_details"]["cached_tokens"].get(n) == simdjson::SUCCESS) cached_tokens = n;
  }
  simdjson::dom::element spec;
  if (has_metrics && metrics["speculative_decoding"].get(spec) == simdjson::SUCCESS && spec.is_object()) {
    SpeculationCounts s;
    int64_t n;
    if (spec["num_spec_steps"].get(n) == simdjson::SUCCESS) s.steps = n;
    if (spec["num_draft_tokens"].get(n) == simdjson::SUCCESS) s.drafted = n;
    if (spec["num_accepted_draft_tokens"].get(n) == simdjson::SUCCESS) s.accepted = n;
    simdjson::dom::array list;
    if (spec["acceptance_histogram"].get(list) == simdjson::SUCCESS) {
      for (const simdjson::dom::element e : list) s.histogram.push_back(e.get_int64().value_unsafe());
    }
    const auto steps = [&](const char* key, std::vector<int32_t>& out) {
      if (spec[key].get(list) != simdjson::SUCCESS) return;
      for (const simdjson::dom::element e : list) out.push_back(static_cast<int32_t>(e.get_int64().value_unsafe()));
    };
    steps("per_step_drafted", s.per_step_drafted);
    steps("per_step_accepted", s.per_step_accepted);
    speculation = std::move(s);
  }
}
}  // namespace nibble
