#include "app/command_tree.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <functional>

namespace nibble {
namespace {
using Visit = std::function<void(const Command&, const std::string& path)>;

// Every command with its words, "bench serving"; the root's are empty.
void walk(const Command& command, const std::string& path, const Visit& visit) {
  visit(command, path);
  for (const Command& sub : command.commands) walk(sub, path.empty() ? sub.name : path + " " + sub.name, visit);
}

std::string join(const std::vector<std::string>& words, const char* between = " ") {
  std::string out;
  for (const std::string& word : words) out += (out.empty() ? "" : between) + word;
  return out;
}

// In single quotes of a shell.
std::string quoted(const std::string& text) {
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

bool names_a_path(const CommandOption& o) {
  const auto has = [&](const char* word) { return o.help.find(word) != std::string::npos; };
  return o.takes_value && (has("folder") || has("file") || has("FILE") || has("DIR") || has("JSONL") || has(".jsonl") || has("run") || o.names[0] == "MODEL");
}

std::string roff(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\') {
      out += "\\e";
    } else if (c == '-') {
      out += "\\-";
    } else {
      out += c;
    }
  }
  if (out.starts_with('.') || out.starts_with('\'')) out.insert(0, "\\&");
  return out;
}

void man_options(const Command& command, std::string& out) {
  for (const CommandOption& o : command.options) {
    std::string names;
    for (const std::string& name : o.names) names += fmt::format("{}\\fB{}\\fR", names.empty() ? "" : ", ", roff(name));
    if (o.takes_value && !o.positional) names += " \\fIvalue\\fR";
    out += ".TP\n" + names + "\n" + roff(o.help.empty() ? "see the command's description" : o.help);
    if (!o.fallback.empty()) out += roff(fmt::format(" [{}]", o.fallback));
    out += "\n";
  }
}
}  // namespace

std::vector<std::string> listed_words(const std::string& help) {
  std::vector<std::string> words;
  size_t at = 0;
  while (at < help.size()) {
    size_t end = at;
    while (end < help.size() && (std::isalnum(static_cast<unsigned char>(help[end])) || help[end] == '_' || help[end] == ':')) ++end;
    const std::string word = help.substr(at, end - at);
    const bool last = end == help.size() || help.compare(end, 2, " (") == 0 || help.compare(end, 2, ": ") == 0 || help[end] == ';';
    if (word.empty() || (!last && help.compare(end, 2, ", ") != 0)) return {};
    if (word.find(':') == std::string::npos) words.push_back(word);  // cuda:N is a pattern
    if (last) return words.size() > 1 ? words : std::vector<std::string>{};
    at = end + 2;
  }
  return {};
}

std::string bash_completion(const Command& root) {
  std::string cases, values, paths;
  walk(root, "", [&](const Command& command, const std::string& path) {
    std::vector<std::string> words;
    for (const Command& sub : command.commands) words.push_back(sub.name);
    for (const CommandOption& o : command.options) {
      if (!o.positional) words.insert(words.end(), o.names.begin(), o.names.end());
      if (o.positional) words.insert(words.end(), o.choices.begin(), o.choices.end());
      if (!o.choices.empty() && !o.positional) values += fmt::format("    {}) words={} ;;\n", quoted(path + " " + o.names[0]), quoted(join(o.choices)));
      if (names_a_path(o) && !o.positional) {
        for (const std::string& name : o.names) paths += fmt::format("{}{}", paths.empty() ? "" : " | ", quoted(path + " " + name));
      }
    }
    cases += fmt::format("    {}) words={} ;;\n", quoted(path), quoted(join(words)));
  });
  std::vector<std::string> known;
  walk(root, "", [&](const Command&, const std::string& path) {
    if (!path.empty()) known.push_back(quoted(path));
  });
  return fmt::format(
      R"sh(# bash completion of nibble; made by `nibble completion bash`
_nibble() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} path= word words=
  # The command: leading words that are commands.
  for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
    case "${{path:+$path }}$word" in
    {}) path="${{path:+$path }}$word" ;;
    *) break ;;
    esac
  done
  case "$path $before" in
{}    {}) COMPREPLY=($(compgen -f -- "$current")); compopt -o filenames 2>/dev/null; return ;;
  esac
  if [ -z "$words" ]; then
    case "$path" in
{}    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$current"))
  if [ ${{#COMPREPLY[@]}} = 0 ]; then
    COMPREPLY=($(compgen -f -- "$current"))
    compopt -o filenames 2>/dev/null
  fi
}}
complete -F _nibble nibble
)sh",
      join(known, " | "), values, paths, cases);
}

std::string zsh_completion(const Command& root) {
  const auto described = [](std::string text) {
    std::string out;
    for (const char c : text) {
      if (c == '[' || c == ']' || c == ':' || c == '\\') out += '\\';
      out += c;
    }
    return out;
  };
  const auto function_name = [](std::string path) {
    std::replace(path.begin(), path.end(), ' ', '_');
    std::replace(path.begin(), path.end(), '-', '_');
    return "_nibble" + (path.empty() ? "" : "_" + path);
  };
  std::string out = "#compdef nibble\n# zsh completion of nibble; made by `nibble completion zsh`\n";
  walk(root, "", [&](const Command& command, const std::string& path) {
    out += fmt::format("\n{}() {{\n", function_name(path));
    std::string arguments;
    for (const CommandOption& o : command.options) {
      const std::string action = !o.choices.empty() ? "(" + join(o.choices) + ")" : names_a_path(o) ? "_files" : "";
      for (const std::string& name : o.names) {
        if (o.positional) {
          arguments += " \\\n    " + quoted(fmt::format("{}:{}:{}", o.required ? "" : ":", described(name), action.empty() ? "_files" : action));
        } else {
          arguments += " \\\n    " + quoted(fmt::format("{}[{}]{}", name, described(o.help), o.takes_value ? fmt::format(":value:{}", action) : ""));
        }
      }
    }
    if (command.commands.empty()) {
      out += "  _arguments -s" + arguments + "\n}\n";
      return;
    }
    std::string list, cases;
    for (const Command& sub : command.commands) {
      list += "\n    " + quoted(sub.name + ":" + described(sub.help));
      cases += fmt::format("    {}) {} ;;\n", sub.name, function_name(path.empty() ? sub.name : path + " " + sub.name));
    }
    out += "  local state line\n  local -a commands=(" + list + "\n  )\n";
    out += "  _arguments -C" + arguments + " \\\n    '1: :->command' '*:: :->rest'\n";
    out += "  case $state in\n  command) _describe command commands ;;\n  rest)\n    case $line[1] in\n" + cases + "    esac ;;\n  esac\n}\n";
  });
  return out + "\n_nibble \"$@\"\n";
}

std::string man_page(const Command& root, const std::string& version) {
  std::string out = fmt::format(".TH NIBBLE 1 \"\" \"nibble {}\" \"User Commands\"\n.SH NAME\nnibble \\- {}\n.SH SYNOPSIS\n", version, roff(root.help));
  walk(root, "", [&](const Command& command, const std::string& path) {
    if (path.empty() || !command.commands.empty()) return;
    std::string positionals;
    for (const CommandOption& o : command.options) {
      if (o.positional) positionals += fmt::format(" {}\\fI{}\\fR{}", o.required ? "" : "[", roff(o.names[0]), o.required ? "" : "]");
    }
    out += fmt::format(".br\n\\fBnibble {}\\fR [\\fIflags\\fR]{}\n", roff(path), positionals);
  });
  out +=
      ".SH DESCRIPTION\nnibble serves Gemma 4 checkpoints (BF16, NVFP4, FP8) over the OpenAI API, from a CPU or an NVIDIA GPU.\n"
      "MODEL is a folder in Hugging Face layout, an id in the local Hugging Face cache, or the word \\fBdemo\\fR: the small model that comes with the program.\n.SH COMMANDS\n";
  walk(root, "", [&](const Command& command, const std::string& path) {
    if (path.empty()) return;
    out += fmt::format(".SS nibble {}\n{}\n", roff(path), roff(command.help));
    man_options(command, out);
  });
  out +=
      ".SH ENVIRONMENT\n.TP\n\\fBHF_HOME\\fR\nwhere the Hugging Face cache is\n.TP\n\\fBNIBBLE_DEMO_DIR\\fR\nfolder of the demo model\n.TP\n\\fBNO_COLOR\\fR\nno colours in chat\n"
      ".SH EXIT STATUS\n.TP\n\\fB0\\fR\ndone\n.TP\n\\fB1\\fR\nfailed while running\n.TP\n\\fB2\\fR\nwrong usage or input\n.TP\n\\fB130\\fR\ninterrupted; what was done is kept\n";
  return out;
}
}  // namespace nibble
