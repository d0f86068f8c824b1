// The commands other than `serve`, parsed with CLI11.
#pragma once

#include <string>
#include <vector>

namespace nibble {
// args[0] is the command's name. Returns the exit code. `parse_only`: stop when the flags are known to be good.
int run_command(const std::vector<std::string>& args, bool parse_only = false);
}  // namespace nibble
