// `nibble serve`: flags, then port, then model, then ready; and an orderly end.
#pragma once

#include <span>
#include <string>

namespace nibble {
// `parse_only`: stop when the flags are known to be good.
int run_serve(std::span<const std::string> args, bool parse_only = false);
}
