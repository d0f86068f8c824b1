// The commands and their flags as data, and what is made from them: completion for bash and zsh, and the man page. The flags themselves are where they are parsed.
#pragma once

#include <string>
#include <vector>

namespace nibble {
struct CommandOption {
  std::vector<std::string> names;    // "--port"; "MODEL" for a positional
  std::string help, fallback;        // default, "" when it says nothing
  bool takes_value = true, positional = false, required = false;
  std::vector<std::string> choices;  // when only these will do
};

struct Command {
  std::string name, help;
  std::vector<CommandOption> options;
  std::vector<Command> commands;
};

// A script that bash or zsh reads: `nibble completion bash > DIR/nibble`.
std::string bash_completion(const Command& root);
std::string zsh_completion(const Command& root);

// nibble(1), in the man macros.
std::string man_page(const Command& root, const std::string& version);

// A list of words in a flag's help, "auto, cpu, cuda, cuda:N" or "on, off", up to what is no word; empty when it is a sentence.
std::vector<std::string> listed_words(const std::string& help);
}  // namespace nibble
