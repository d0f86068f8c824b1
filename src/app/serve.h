// `nibble serve`: flags, then port, then model, then ready; and an orderly end.
#pragma once

#include <span>
#include <string>

namespace nibble {
int run_serve(std::span<const std::string> args);
}
