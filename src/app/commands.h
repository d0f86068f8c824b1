// The commands other than `serve`, parsed with CLI11.
#pragma once

#include <string>
#include <vector>

namespace nibble {
// args[0] is the command's name. Returns the exit code.
int run_command(const std::vector<std::string>& args);
}  // namespace nibble
