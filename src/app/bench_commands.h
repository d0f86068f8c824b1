// The flags of `nibble bench ...` and `nibble eval`.
#pragma once

#include <functional>
#include <string>

namespace CLI {
class App;
}

namespace nibble {
struct ModelFlags;
struct SpeculativeFlags;

// The --speculative-* flags, as serve takes them.
void add_speculative_flags(CLI::App& app, SpeculativeFlags& flags);
// What every command that loads a model takes, apart from the way to name it.
void add_model_detail_flags(CLI::App& app, ModelFlags& flags);

// The chosen command's work goes into `action`. `command_line`: as the user typed it, for reports.
void add_bench_commands(CLI::App& bench, const std::string& command_line, std::function<int()>& action);
void add_eval_command(CLI::App& app, const std::string& command_line, std::function<int()>& action);
}  // namespace nibble
