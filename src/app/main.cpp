// The command line: one word chooses the command, errors are one line, exit codes are 0 done, 1 failed while running, 2 wrong usage or input.
#include <cstdio>
#include <span>
#include <string>
#include <vector>

#include "app/commands.h"
#include "app/serve.h"
#include "app/version.h"
#include "base/error.h"

namespace {
constexpr const char* kHelp =
    "nibble: serves Gemma 4 at four bits\n\n"
    "  nibble serve [MODEL]      OpenAI-compatible server (default: the demo model)\n"
    "  nibble chat [MODEL]       a conversation in the terminal\n"
    "  nibble inspect ...        look into a checkpoint, a prompt, tokens, a message, logits\n"
    "  nibble quantize [MODEL]   BF16 to NVFP4 or FP8, with calibration and a report\n"
    "  nibble eval gsm8k         accuracy with error bars, paired tests; --task FILE for one's own\n"
    "  nibble bench serving      load test of a server, or of a model in this process\n"
    "  nibble bench offline      prefill and decode of the engine alone\n"
    "  nibble bench verify-spec  output with and without speculation, bit by bit\n"
    "  nibble bench ops          kernels against the machine's own roof\n"
    "  nibble bench report       what stored runs say, as tables\n"
    "  nibble completion SHELL   completion for bash or zsh; nibble man prints the man page\n"
    "  nibble --version\n\n"
    "Each command explains itself with --help. MODEL is a folder in Hugging Face layout, an id in the\n"
    "local Hugging Face cache, or the word demo.\n";

int run(const std::vector<std::string>& args) {
  if (args.empty() || args[0] == "--help" || args[0] == "-h" || args[0] == "help") {
    std::fputs(kHelp, stdout);
    return args.empty() ? 2 : 0;
  }
  if (args[0] == "--version") {
    std::printf("nibble %s\n", nibble::kVersion);
    return 0;
  }
  // For tests of written-down command lines: the flags are read and nothing runs.
  const bool parse_only = args[0] == "--parse-only";
  const std::vector<std::string> command(args.begin() + (parse_only ? 1 : 0), args.end());
  if (!command.empty() && command[0] == "serve") return nibble::run_serve(std::span(command).subspan(1), parse_only);
  return nibble::run_command(command, parse_only);
}
}  // namespace

int main(int argc, char** argv) {
  try {
    return run({argv + 1, argv + argc});
  } catch (const nibble::Error& error) {
    std::fprintf(stderr, "error: %s\n", error.message.c_str());
    const bool users = error.code == nibble::ErrorCode::invalid_argument || error.code == nibble::ErrorCode::not_found || error.code == nibble::ErrorCode::unsupported ||
                       error.code == nibble::ErrorCode::corrupt;
    return users ? 2 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
}
