#include "eval/reply_stream.h"

#include <simdjson.h>

namespace nibble {
struct ReplyStream::Parser {
  simdjson::dom::parser json;
  std::string padded;  // the event, with room behind it for the parser's wide reads
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

void ReplyStream::event(std::string_view data, int64_t now_ns) {
  if (data == "[DONE]") {
    done = true;
    return;
  }
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
          if (name == "finish_reason" && part.get(text) == simdjson::SUCCESS) finish_reason = text;
          if (name == "text") plain |= output(part, content);
          if (name != "delta" || part.get(delta) != simdjson::SUCCESS) continue;
          for (const auto& [kind, piece] : delta) {
            if (kind == "content") plain |= output(piece, content);
            if (kind == "reasoning_content") output(piece, reasoning);
            if (kind == "tool_calls" && piece.get(calls) == simdjson::SUCCESS && calls.size() > 0) counts = plain = true;
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
