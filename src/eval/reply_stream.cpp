#include "eval/reply_stream.h"

#include <simdjson.h>

namespace nibble {
struct ReplyStream::Parser {
  simdjson::dom::parser json;
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
  if (parser_->json.parse(data.data(), data.size()).get(root) != simdjson::SUCCESS) {
    error = "an event is not JSON";
    return;
  }
  if (simdjson::dom::element e; root["error"].get(e) == simdjson::SUCCESS && !e.is_null()) {
    std::string_view message;
    error = e["message"].get(message) == simdjson::SUCCESS ? std::string(message) : "the server reported an error";
    return;
  }
  bool counts = false, plain = false;
  std::string_view text;
  simdjson::dom::array choices;
  if (root["choices"].get(choices) == simdjson::SUCCESS) {
    for (const simdjson::dom::element choice : choices) {
      if (choice["finish_reason"].get(text) == simdjson::SUCCESS) finish_reason = text;
      if (choice["text"].get(text) == simdjson::SUCCESS && !text.empty()) {
        counts = plain = true;
        content += text;
      }
      simdjson::dom::element delta;
      if (choice["delta"].get(delta) != simdjson::SUCCESS) continue;
      if (delta["content"].get(text) == simdjson::SUCCESS && !text.empty()) {
        counts = plain = true;
        content += text;
      }
      if (delta["reasoning_content"].get(text) == simdjson::SUCCESS && !text.empty()) {
        counts = true;
        reasoning += text;
      }
      simdjson::dom::array calls;
      if (delta["tool_calls"].get(calls) == simdjson::SUCCESS && calls.size() > 0) counts = plain = true;
    }
  }
  if (counts) chunk_ns.push_back(now_ns);
  if (plain && first_content_ns == 0) first_content_ns = now_ns;

  simdjson::dom::element usage;
  if (root["usage"].get(usage) == simdjson::SUCCESS && usage.is_object()) {
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
  if (root["metrics"]["speculative_decoding"].get(spec) == simdjson::SUCCESS && spec.is_object()) {
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
