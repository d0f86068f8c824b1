// From a conversation to the prompt: the checkpoint's own template, with two repairs around it and the parts that a server adds.
#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "base/error.h"
#include "text/jinja.h"

namespace nibble {
// The names that templates know special tokens by.
struct SpecialTokenNames {
  std::string bos = "<bos>", eos = "<eos>", pad = "<pad>", unk = "<unk>";
};

// tokenizer_config.json beside the tokenizer; missing fields keep Gemma's names.
SpecialTokenNames read_special_token_names(const std::filesystem::path& folder);

struct ChatTemplateSource {
  std::filesystem::path folder;  // of the tokenizer
  std::string override_text;     // --chat-template: a file's path, or the template itself if it holds a `{`; empty: the folder's own
  std::string name;              // --hf-chat-template-name
};

class ChatTemplate {
 public:
  // Search: the override, chat_template.jinja, chat_template in tokenizer_config.json (a string, or a list of {name, template}), else not_found.
  static Result<ChatTemplate> load(const ChatTemplateSource& source);
  static Result<ChatTemplate> parse(std::string_view text, SpecialTokenNames names);

  struct Options {
    const nlohmann::ordered_json* tools = nullptr;   // as the client sent them; nullptr: none
    const nlohmann::ordered_json* kwargs = nullptr;  // chat_template_kwargs
    bool add_generation_prompt = true;
    bool continue_final_message = false;             // the last message is the beginning of the reply
  };
  // `messages`: normalized. invalid_argument with the template's own message when it refuses.
  Result<MarkedText> render(const nlohmann::ordered_json& messages, const Options& options) const;

  const std::string& source() const { return source_; }

 private:
  explicit ChatTemplate(JinjaTemplate parsed) : template_(std::move(parsed)) {}
  Result<MarkedText> render_plain(const nlohmann::ordered_json& messages, const Options& options, bool add_generation_prompt) const;
  Result<MarkedText> generation_prompt(const Options& options) const;

  JinjaTemplate template_;
  SpecialTokenNames names_;
  std::string source_;  // where it came from, for the log
};

// Whether the prompt leaves a thought open: after the last turn or tool response the last channel marker is an opening one.
bool prompt_opens_thinking(std::string_view prompt);
}  // namespace nibble
