#include "text/chat_template.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/file_io.h"

namespace nibble {
namespace {
using json = nlohmann::ordered_json;
namespace fs = std::filesystem;

json read_tokenizer_config(const fs::path& folder) {
  const fs::path path = folder / "tokenizer_config.json";
  if (!fs::exists(path)) return json::object();
  json config = json::parse(read_file(path), nullptr, /*allow_exceptions=*/false);
  if (!config.is_object()) raise(ErrorCode::corrupt, "{}: not a JSON object", path.string());
  return config;
}

// A token is a string or an object with `content`.
std::string token_name(const json& config, const char* key, std::string fallback) {
  const auto at = config.find(key);
  if (at == config.end()) return fallback;
  if (at->is_string()) return *at;
  if (at->is_object() && at->contains("content") && (*at)["content"].is_string()) return (*at)["content"];
  return fallback;
}

SpecialTokenNames names_of(const json& config) {
  const SpecialTokenNames fallback;
  return {token_name(config, "bos_token", fallback.bos), token_name(config, "eos_token", fallback.eos), token_name(config, "pad_token", fallback.pad),
          token_name(config, "unk_token", fallback.unk)};
}

// `chat_template` of tokenizer_config.json; nullopt: none.
std::optional<std::string> configured_template(const json& config, const std::string& wanted) {
  const auto at = config.find("chat_template");
  if (at == config.end()) return std::nullopt;
  if (at->is_string()) return at->get<std::string>();
  if (!at->is_array()) return std::nullopt;
  for (const std::string& name : {wanted.empty() ? std::string("default") : wanted}) {
    for (const json& item : *at) {
      if (item.is_object() && item.value("name", "") == name && item.contains("template")) return item["template"].get<std::string>();
    }
  }
  return std::nullopt;
}

void append(MarkedText& to, const MarkedText& from) {
  for (const TextSpan& span : from.trusted) {
    const TextSpan moved{span.begin + to.text.size(), span.end + to.text.size()};
    if (!to.trusted.empty() && to.trusted.back().end == moved.begin) {
      to.trusted.back().end = moved.end;
    } else {
      to.trusted.push_back(moved);
    }
  }
  to.text += from.text;
}

MarkedText tail(const MarkedText& text, size_t begin) {
  MarkedText out;
  out.text = text.text.substr(begin);
  for (const TextSpan& span : text.trusted) {
    if (span.end > begin) out.trusted.push_back({std::max(span.begin, begin) - begin, span.end - begin});
  }
  return out;
}
}  // namespace

SpecialTokenNames read_special_token_names(const fs::path& folder) { return names_of(read_tokenizer_config(folder)); }

Result<ChatTemplate> ChatTemplate::parse(std::string_view text, SpecialTokenNames names) {
  auto parsed = JinjaTemplate::parse(text);
  if (!parsed) return tl::unexpected(parsed.error());
  ChatTemplate out(*std::move(parsed));
  out.names_ = std::move(names);
  return out;
}

Result<ChatTemplate> ChatTemplate::load(const ChatTemplateSource& source) {
  const json config = read_tokenizer_config(source.folder);
  std::string text, from;
  if (!source.override_text.empty()) {
    const bool is_text = source.override_text.find('{') != std::string::npos;
    if (!is_text && !fs::exists(source.override_text)) {
      return fail(ErrorCode::not_found, "--chat-template {}: no such file (a template given as text must hold a '{{')", source.override_text);
    }
    text = is_text ? source.override_text : read_file(source.override_text);
    from = is_text ? "--chat-template" : source.override_text;
  } else if (const fs::path file = source.folder / "chat_template.jinja"; source.name.empty() && fs::exists(file)) {
    text = read_file(file);
    from = file.string();
  } else if (const auto configured = configured_template(config, source.name)) {
    text = *configured;
    from = (source.folder / "tokenizer_config.json").string();
  } else {
    return fail(ErrorCode::not_found, "{}: no chat template (neither chat_template.jinja nor chat_template{} in tokenizer_config.json); name one with --chat-template",
                source.folder.string(), source.name.empty() ? "" : " '" + source.name + "'");
  }
  auto out = parse(text, names_of(config));
  if (!out) return fail(out.error().code, "{}: {}", from, out.error().message);
  out->source_ = from;
  return out;
}

Result<MarkedText> ChatTemplate::render_plain(const json& messages, const Options& options, bool add_generation_prompt) const {
  json variables = options.kwargs && options.kwargs->is_object() ? *options.kwargs : json::object();
  variables["messages"] = messages;
  variables["tools"] = options.tools ? *options.tools : json(nullptr);
  variables["documents"] = nullptr;
  variables["add_generation_prompt"] = add_generation_prompt;
  const json trusted = {{"bos_token", names_.bos}, {"eos_token", names_.eos}, {"pad_token", names_.pad}, {"unk_token", names_.unk}};
  return template_.render(variables, trusted);
}

// What the template appends to ask for a reply: the difference that the flag makes to the smallest conversation.
Result<MarkedText> ChatTemplate::generation_prompt(const Options& options) const {
  const json probe = json::array({{{"role", "user"}, {"content", "x"}}});
  Options bare;
  bare.kwargs = options.kwargs;
  auto with = render_plain(probe, bare, true), without = render_plain(probe, bare, false);
  if (!with || !without || !with->text.starts_with(without->text)) return MarkedText{};
  return tail(*with, without->text.size());
}

Result<MarkedText> ChatTemplate::render(const json& messages, const Options& options) const {
  if (options.continue_final_message) {
    const json& last = messages.back();
    if (last.value("role", "") != "assistant" || !last.contains("content") || !last["content"].is_string()) {
      return fail_param("continue_final_message", ErrorCode::invalid_argument, "the last message must be the assistant's, with text, to be continued");
    }
    json before = messages;
    before.erase(before.size() - 1);
    if (before.empty()) return fail_param("continue_final_message", ErrorCode::invalid_argument, "there must be a message before the one to continue");
    auto prompt = render(before, {.tools = options.tools, .kwargs = options.kwargs, .add_generation_prompt = true, .continue_final_message = false});
    if (!prompt) return prompt;
    const std::string content = last["content"];
    constexpr std::string_view kEmptyThought = "<|channel>thought\n<channel|>";
    const bool opens_channel = content.starts_with("<|channel>");
    if (opens_channel && prompt->text.ends_with(kEmptyThought)) {
      const size_t end = prompt->text.size() - kEmptyThought.size();
      prompt->text.resize(end);
      while (!prompt->trusted.empty() && prompt->trusted.back().begin >= end) prompt->trusted.pop_back();
      if (!prompt->trusted.empty()) prompt->trusted.back().end = std::min(prompt->trusted.back().end, end);
    }
    // The channel markers of a reply in progress are the model's own.
    MarkedText continued{content, {}};
    for (const std::string_view marker : {"<|channel>", "<channel|>"}) {
      for (size_t at = 0; (at = content.find(marker, at)) != std::string::npos; at += marker.size()) continued.trusted.push_back({at, at + marker.size()});
    }
    std::sort(continued.trusted.begin(), continued.trusted.end(), [](const TextSpan& a, const TextSpan& b) { return a.begin < b.begin; });
    append(*prompt, continued);
    return prompt;
  }
  auto prompt = render_plain(messages, options, options.add_generation_prompt);
  // Some templates close the turn after a message with text and calls, though its results follow; then they do not ask for a reply.
  if (prompt && options.add_generation_prompt && prompt->text.ends_with("<turn|>\n")) {
    if (auto ask = generation_prompt(options); ask) append(*prompt, *ask);
  }
  return prompt;
}

bool prompt_opens_thinking(std::string_view prompt) {
  size_t from = 0;
  for (const std::string_view marker : {"<|turn>", "<tool_response|>"}) {
    const size_t at = prompt.rfind(marker);
    if (at != std::string_view::npos) from = std::max(from, at);
  }
  const std::string_view rest = prompt.substr(from);
  const size_t open = rest.rfind("<|channel>"), close = rest.rfind("<channel|>");
  return open != std::string_view::npos && (close == std::string_view::npos || close < open);
}
}  // namespace nibble
