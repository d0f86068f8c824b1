// The flags of `serve`: SGLang's, each used, ignored with one line, or refused with the reason and what to do instead.
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

namespace nibble {
struct ServeFlags {
  std::map<std::string, std::string> values;  // by name without dashes, kebab-case; booleans "true" or "false"; defaults filled in
  std::vector<std::string> ignored;           // one line each, for the log
  std::vector<std::string> given;             // "--port 8000", for the log
  bool help = false, help_all = false, version = false;

  const std::string& text(const std::string& name) const { return values.at(name); }
  bool flag(const std::string& name) const { return values.at(name) == "true"; }
  int64_t integer(const std::string& name) const;
  double number(const std::string& name) const;
  std::vector<double> numbers(const std::string& name) const;  // none when not given
};

// Every problem is a line of `problems`; none: the flags are good.
ServeFlags parse_serve_flags(std::span<const std::string> args, std::vector<std::string>& problems);
std::string serve_help(bool all);
}  // namespace nibble
