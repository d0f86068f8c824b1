#include "text/output_parser.h"

#include <algorithm>
#include <array>

#include "base/utf8.h"

namespace nibble {
namespace {
constexpr std::array<std::string_view, 8> kMarkers{"<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|\"|>", "<turn|>", "<|tool_response>", "<eos>"};
constexpr std::string_view kSpaces = " \n\t\r", kLabel = "thought\n", kCall = "call:";
constexpr size_t kMaxName = 128;  // characters

bool is_ender(OutputMarker m) { return m == OutputMarker::turn_end || m == OutputMarker::response_open || m == OutputMarker::eos; }

std::string_view left_stripped(std::string_view text, std::string_view characters = kSpaces) {
  const size_t first = text.find_first_not_of(characters);
  return first == std::string_view::npos ? std::string_view() : text.substr(first);
}
std::string_view right_stripped(std::string_view text) { return text.substr(0, text.find_last_not_of(kSpaces) + 1); }

bool fits_a_name(std::string_view text) {
  if (text.find_first_of("{}<>|\"()[], \n\t\r") != std::string_view::npos) return false;
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }) <= static_cast<int64_t>(kMaxName);
}
}  // namespace

std::string_view text_of(OutputMarker marker) { return kMarkers[static_cast<size_t>(marker)]; }

OutputMarkers::OutputMarkers(const Tokenizer& tokenizer) {
  for (size_t i = 0; i < kMarkers.size(); ++i) {
    if (const auto id = tokenizer.id_of(kMarkers[i])) by_id_[*id] = static_cast<OutputMarker>(i);
  }
}

std::optional<OutputMarker> OutputMarkers::find(int32_t id) const {
  const auto at = by_id_.find(id);
  return at == by_id_.end() ? std::nullopt : std::optional(at->second);
}

OutputParser::OutputParser(Options options) : options_(options), state_(options.starts_thinking ? State::reason : State::content) {}

bool OutputParser::any_complete_call() const {
  return std::any_of(calls_.begin(), calls_.end(), [](const ParsedCall& c) { return c.complete; });
}
bool OutputParser::any_incomplete_call() const {
  return std::any_of(calls_.begin(), calls_.end(), [](const ParsedCall& c) { return !c.complete; });
}

void OutputParser::emit(OutputDelta::Kind kind, int call, std::string_view text) {
  // Neighbours of one kind are one delta: a step's text arrives in one piece.
  if (!out_->empty() && kind != OutputDelta::Kind::call_begin && out_->back().kind == kind && out_->back().call == call) {
    out_->back().text += text;
  } else {
    out_->push_back({kind, call, std::string(text)});
  }
}

// After the first call white space waits: it belongs to the content only if more content follows.
void OutputParser::add_content(std::string_view text) {
  if (text.empty()) return;
  if (calls_.empty()) return emit(OutputDelta::Kind::content, -1, text);
  spaces_ += text;
  const std::string certain(right_stripped(spaces_));
  spaces_.erase(0, certain.size());
  if (!certain.empty()) emit(OutputDelta::Kind::content, -1, certain);
}

void OutputParser::add_reasoning(std::string_view text) {
  if (!text.empty()) emit(OutputDelta::Kind::reasoning, -1, text);
}

void OutputParser::drain_arguments() {
  const std::string text = arguments_.take();
  if (text.empty()) return;
  calls_.back().arguments += text;
  emit(OutputDelta::Kind::call_arguments, static_cast<int>(calls_.size()) - 1, text);
}

// ---- front ends ----

void OutputParser::push_text(std::string_view utf8, std::vector<OutputDelta>& out) {
  out_ = &out;
  held_ += utf8;
  size_t at = 0;
  while (at < held_.size()) {
    const std::string_view rest = std::string_view(held_).substr(at);
    const size_t next = rest.find('<');
    if (next != 0) {
      std::string_view plain = rest.substr(0, next);
      if (next == std::string_view::npos) plain.remove_suffix(incomplete_utf8_tail(plain));
      if (plain.empty()) break;
      characters(plain);
      at += plain.size();
      continue;
    }
    const auto whole = std::find_if(kMarkers.begin(), kMarkers.end(), [&](std::string_view m) { return rest.starts_with(m); });
    if (whole != kMarkers.end()) {
      marker(static_cast<OutputMarker>(whole - kMarkers.begin()));
      at += whole->size();
    } else if (std::any_of(kMarkers.begin(), kMarkers.end(), [&](std::string_view m) { return m.starts_with(rest); })) {
      break;
    } else {
      character("<");
      ++at;
    }
  }
  held_.erase(0, at);
}

void OutputParser::push_plain(std::string_view utf8, std::vector<OutputDelta>& out) {
  out_ = &out;
  characters(utf8);
}

void OutputParser::push_marker(OutputMarker m, std::vector<OutputDelta>& out) {
  out_ = &out;
  marker(m);
}

void OutputParser::finish(std::vector<OutputDelta>& out) {
  out_ = &out;
  // A tail that did not become a marker is text.
  characters(replace_invalid_utf8(held_));
  held_.clear();
}

// ---- the machine ----

void OutputParser::characters(std::string_view utf8) {
  for (size_t at = 0; at < utf8.size();) {
    // Whole stretches where no character can change the state.
    if (state_ == State::content) return add_content(utf8.substr(at));
    if (state_ == State::reason) return add_reasoning(utf8.substr(at));
    const size_t length = decode_utf8(utf8, at).length;
    character(utf8.substr(at, length));
    at += length;
  }
}

void OutputParser::character(std::string_view c) {
  switch (state_) {
    case State::content: add_content(c); break;
    case State::reason: add_reasoning(c); break;
    case State::label:
      label_ += c;
      if (label_ == kLabel) {
        state_ = State::reason;
      } else if (!kLabel.starts_with(label_)) {
        add_reasoning(label_);
        state_ = State::reason;
      }
      break;
    case State::head:
      head_ += c;
      try_head();
      break;
    case State::args:
      arguments_.character(c);
      drain_arguments();
      if (arguments_.done()) {
        calls_.back().complete = true;
        state_ = State::tail;
        head_.clear();
      }
      break;
    case State::tail:
      head_ += c;
      head_ = std::string(left_stripped(head_, " \n\t\r,}"));
      if (head_ == kCall) {
        state_ = State::head;
      } else if (!kCall.starts_with(head_)) {
        head_.clear();
      }
      break;
  }
}

void OutputParser::try_head() {
  const std::string_view head = left_stripped(head_);
  if (head.size() <= kCall.size()) {
    if (!kCall.starts_with(head)) not_a_call();
    return;
  }
  if (!head.starts_with(kCall)) return not_a_call();
  std::string_view name = left_stripped(head.substr(kCall.size()));
  if (name.ends_with('{')) {
    name = right_stripped(name.substr(0, name.size() - 1));
    !name.empty() && fits_a_name(name) ? start_call(std::string(name)) : not_a_call();
  } else if (!fits_a_name(right_stripped(name))) {
    not_a_call();
  }
}

void OutputParser::not_a_call() {
  state_ = State::content;
  bad_block_ = true;
  const std::string text = std::string(text_of(OutputMarker::call_open)) + std::exchange(head_, {});
  add_content(text);
}

void OutputParser::start_call(std::string name) {
  head_.clear();
  spaces_.clear();
  emit(OutputDelta::Kind::call_begin, static_cast<int>(calls_.size()), name);
  calls_.push_back({std::move(name), {}, false});
  arguments_ = ToolArguments();
  state_ = State::args;
  drain_arguments();
}

void OutputParser::end_arguments() {
  if (!arguments_.done()) {
    arguments_.close();
    drain_arguments();
  }
  calls_.back().complete = true;
}

void OutputParser::marker_in_head(OutputMarker m) {
  const std::string_view head = left_stripped(head_);
  if (m == OutputMarker::call_close) {
    const std::string name(head.starts_with(kCall) ? right_stripped(left_stripped(head.substr(kCall.size()))) : std::string_view());
    if (!name.empty() && fits_a_name(name)) {  // a call without braces
      start_call(name);
      end_arguments();
      state_ = State::content;
      return;
    }
  } else if (is_ender(m)) {
    head_.clear();
    state_ = State::content;
    return;
  }
  not_a_call();
  marker(m);
}

void OutputParser::marker_in_args(OutputMarker m) {
  if (m == OutputMarker::quote) {
    arguments_.quote();
    drain_arguments();
  } else if (m == OutputMarker::call_close) {
    end_arguments();
    state_ = State::content;
  } else if (m == OutputMarker::call_open) {
    end_arguments();
    state_ = State::head;
    head_.clear();
  } else if (is_ender(m)) {
    state_ = State::content;  // incomplete
  } else {
    characters(text_of(m));
  }
}

void OutputParser::marker(OutputMarker m) {
  const bool channel = m == OutputMarker::channel_open || m == OutputMarker::channel_close;
  const bool call = m == OutputMarker::call_open || m == OutputMarker::call_close;
  if ((channel && !options_.reasoning) || (call && !options_.tools)) return characters(text_of(m));
  switch (state_) {
    case State::head: return marker_in_head(m);
    case State::args: return marker_in_args(m);
    case State::tail:
      state_ = State::content;
      head_.clear();
      if (m != OutputMarker::call_close && m != OutputMarker::quote) marker(m);
      return;
    case State::label:
    case State::reason:
      if (m == OutputMarker::quote) return characters(text_of(m));
      if (state_ == State::label) {
        // "thought" right before the end is the label too, and so is a part of it at the end of a turn.
        if (label_ != kLabel.substr(0, kLabel.size() - 1)) add_reasoning(label_);
        label_.clear();
        state_ = State::reason;
      }
      if (m == OutputMarker::channel_open) {
        state_ = State::label;
        label_.clear();
      } else if (m == OutputMarker::call_open) {
        state_ = State::head;
        head_.clear();
      } else if (m == OutputMarker::channel_close || is_ender(m)) {
        state_ = State::content;
      }
      return;
    case State::content: break;
  }
  if (m == OutputMarker::channel_open) {
    spaces_.clear();
    state_ = State::label;
    label_.clear();
  } else if (m == OutputMarker::call_open) {
    spaces_.clear();
    state_ = State::head;
    head_.clear();
    bad_block_ = false;
  } else if (m == OutputMarker::quote || (m == OutputMarker::call_close && std::exchange(bad_block_, false))) {
    add_content(text_of(m));
  }
}
}  // namespace nibble
