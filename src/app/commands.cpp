#include "app/commands.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <functional>
#include <iostream>

#include "app/bench_commands.h"
#include "app/chat.h"
#include "app/command_tree.h"
#include "app/inspect.h"
#include "app/inspect_checkpoint.h"
#include "app/inspect_compare.h"
#include "app/inspect_quantize_tensor.h"
#include "app/quantize_command.h"
#include "app/serve_flag_table.h"
#include "app/version.h"
#include "base/log.h"
#include "base/nearest.h"

namespace nibble {
namespace {
void add_model_flags(CLI::App& app, ModelFlags& flags) {
  app.add_option("MODEL,--model-path,--model", flags.model_path, "model folder, id in the local Hugging Face cache, or demo")->capture_default_str();
  add_model_detail_flags(app, flags);
}

std::vector<std::string> option_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  }
  for (const CLI::App* sub : app.get_subcommands({})) {
    for (std::string& name : option_names(*sub)) names.push_back(std::move(name));
    names.push_back(sub->get_name());
  }
  return names;
}
CommandOption described(const CLI::Option& option) {
  CommandOption out;
  for (const std::string& name : option.get_snames()) out.names.push_back("-" + name);
  for (const std::string& name : option.get_lnames()) out.names.push_back("--" + name);
  out.positional = out.names.empty();
  if (out.positional) out.names.push_back(option.get_name(true));
  out.help = option.get_description();
  out.fallback = option.get_default_str();
  out.takes_value = option.get_items_expected_max() > 0;
  out.required = option.get_required();
  out.choices = listed_words(out.help);
  return out;
}

Command described(const CLI::App& app) {
  Command out{.name = app.get_name(), .help = app.get_description()};
  for (const CLI::Option* option : app.get_options()) out.options.push_back(described(*option));
  for (const CLI::App* sub : app.get_subcommands({})) out.commands.push_back(described(*sub));
  return out;
}

Command serve_command() {
  Command out{.name = "serve", .help = "an OpenAI-compatible server; the command lines of SGLang work unchanged"};
  out.options.push_back({.names = {"MODEL"}, .help = "as --model-path", .positional = true});
  for (const Flag& flag : serve_flag_table()) {
    if (flag.fate != Flag::Fate::use) continue;
    const bool boolean = flag.type == Flag::Type::boolean;
    out.options.push_back({.names = {std::string("--") + flag.name}, .help = flag.help, .fallback = boolean ? "" : flag.fallback, .takes_value = !boolean, .choices = listed_words(flag.help)});
  }
  return out;
}
}  // namespace

int run_command(const std::vector<std::string>& args, bool parse_only) {
  CLI::App app("nibble: serves Gemma 4 at four bits", "nibble");
  app.require_subcommand(1);
  ModelFlags flags;
  std::function<int()> action;
  std::string chat_template, out_file;
  bool json = false, step_by_step = false;
  int chunk = 0;

  CLI::App* inspect = app.add_subcommand("inspect", "look into a checkpoint or one step; JSON lines in, JSON lines out");
  inspect->require_subcommand(1);
  const auto command = [&](const char* name, const char* help, std::function<int()> run) {
    CLI::App* sub = inspect->add_subcommand(name, help);
    add_model_flags(*sub, flags);
    sub->callback([&action, run] { action = run; });
    return sub;
  };
  bool plan = false;
  CLI::App* checkpoint = command("checkpoint", "what a checkpoint holds and how it is quantized", [&] {
    return inspect_checkpoint({.model = {flags.model_path, flags.revision, flags.download_dir}, .overrides = flags.override_args, .kv_cache_dtype = flags.kv_cache_dtype, .plan = plan, .json = json}, std::cout);
  });
  checkpoint->add_flag("--json", json, "machine-readable");
  checkpoint->add_flag("--plan", plan, "the memory that serving would take here");
  command("tokens", "{\"text\": ...} or {\"ids\": [...]} to ids and text", [&] { return inspect_tokens(flags); });
  command("prompt", "an OpenAI chat request to the prompt and its ids", [&] { return inspect_prompt(flags, chat_template); })
      ->add_option("--chat-template", chat_template, "Jinja file instead of the checkpoint's");
  command("message", "raw model output to content, reasoning and tool calls", [&] { return inspect_message(flags); });
  CLI::App* logits = command("logits", "{\"ids\": [...], \"rows\": \"all\"|\"last\"} to logits in a safetensors file", [&] { return inspect_logits(flags, out_file, step_by_step, chunk); });
  logits->add_option("--out", out_file, "the safetensors file to write")->required();
  logits->add_flag("--step-by-step", step_by_step, "one token at a time instead of one prefill");
  logits->add_option("--chunk", chunk, "prefill in chunks of so many tokens");
  CLI::App* generate = command("generate", "{\"ids\"|\"prompt\"|\"messages\", \"max_new_tokens\", sampling fields} to the reply", [&] { return inspect_generate(flags); });
  add_speculative_flags(*generate, flags.speculative);

  InspectCompareFlags compare_flags;
  CLI::App* compare = inspect->add_subcommand("compare", "two checkpoints, tensor by tensor, worst first; with --prompts their predictions too");
  compare->add_option("DIR_A", compare_flags.a, "the reference: model folder, id in the local Hugging Face cache, or demo")->required();
  compare->add_option("DIR_B", compare_flags.b, "the candidate")->required();
  compare->add_option("--prompts", compare_flags.prompts, "JSON lines with ids, text or messages; own: some of our own prompts");
  compare->add_option("--num-prompts,--num_prompts", compare_flags.num_prompts, "so many of them")->capture_default_str()->check(CLI::PositiveNumber);
  compare->add_flag("--all", compare_flags.all, "every tensor that differs, not the 20 worst alone");
  compare->add_flag("--json", compare_flags.json, "machine-readable");
  add_model_detail_flags(*compare, compare_flags.model);
  compare->callback([&] { action = [&] { return inspect_compare(compare_flags, std::cout); }; });

  QuantizeTensorFlags tensor_flags;
  CLI::App* tensor = inspect->add_subcommand("quantize-tensor", "matrices of a safetensors file as quantize would store them");
  tensor->add_option("--format", tensor_flags.format, "nvfp4, fp8_pb_wo")->capture_default_str()->check(CLI::IsMember({"nvfp4", "fp8_pb_wo"}));
  tensor->add_option("--calib", tensor_flags.calib, "max, mse")->capture_default_str()->check(CLI::IsMember({"max", "mse"}));
  tensor->add_option("--in", tensor_flags.in, "safetensors with BF16 or F32 matrices")->required();
  tensor->add_option("--out", tensor_flags.out, "safetensors to write: NAME.weight, NAME.weight_scale, NAME.weight_scale_2 (NVFP4), NAME.dequantized")->required();
  tensor->add_option("--threads", tensor_flags.threads, "CPU threads (default: one per core)")->check(CLI::NonNegativeNumber);
  tensor->callback([&] { action = [&] { return inspect_quantize_tensor(tensor_flags); }; });

  ChatFlags chat_flags;
  CLI::App* chat = app.add_subcommand("chat", "a conversation in the terminal");
  add_model_flags(*chat, chat_flags.model);
  chat->add_option("--system", chat_flags.system, "system message");
  chat->add_flag("--think", chat_flags.thinking, "let the model think first");
  chat->add_option("--temperature", chat_flags.temperature, "0: the likeliest reply (default: the model's recommendation)");
  chat->add_option("--max-tokens", chat_flags.max_tokens, "longest reply")->capture_default_str()->check(CLI::PositiveNumber);
  add_speculative_flags(*chat, chat_flags.model.speculative);
  chat->callback([&] { action = [&] { return run_chat(chat_flags); }; });

  QuantizeFlags quantize_flags;
  CLI::App* quantize = app.add_subcommand("quantize", "a BF16 model to NVFP4 or FP8, with calibration and a report");
  add_quantize_command(*quantize, quantize_flags);
  quantize->callback([&] { action = [&] { return run_quantize(quantize_flags); }; });

  std::string command_line = "nibble";
  for (const std::string& arg : args) command_line += " " + arg;
  add_bench_commands(*app.add_subcommand("bench", "load tests, engine timings, kernels against the machine's own roof"), command_line, action);
  add_eval_command(app, command_line, action);

  std::string shell;
  const auto whole = [&app] {
    Command root = described(app);
    root.help = "serves Gemma 4 at four bits";
    root.commands.insert(root.commands.begin(), serve_command());
    return root;
  };
  CLI::App* completion = app.add_subcommand("completion", "a completion script for the shell, to stdout");
  completion->add_option("SHELL", shell, "bash, zsh")->required()->check(CLI::IsMember({"bash", "zsh"}));
  completion->callback([&] {
    action = [&] {
      std::cout << (shell == "bash" ? bash_completion(whole()) : zsh_completion(whole()));
      return 0;
    };
  });
  app.add_subcommand("man", "the man page, to stdout")->callback([&] {
    action = [&] {
      std::cout << man_page(whole(), kVersion);
      return 0;
    };
  });

  std::vector<std::string> reversed(args.rbegin(), args.rend());
  // A spelling of other tools.
  if (args.size() > 1 && args[0] == "bench" && args[1] == "--verify-spec") reversed[reversed.size() - 2] = "verify-spec";
  try {
    app.parse(reversed);
  } catch (const CLI::CallForHelp& help) {
    return app.exit(help);
  } catch (const CLI::ParseError& error) {
    std::string hint;
    for (const std::string& arg : args) {
      const std::vector<std::string> known = option_names(app);
      if (std::find(known.begin(), known.end(), arg.substr(0, arg.find('='))) != known.end()) continue;
      if (!arg.starts_with("-") && error.get_name() != "RequiredError" && error.get_name() != "ExtrasError") continue;
      const auto near = nearest_names(arg.substr(0, arg.find('=')), known, 2);
      if (!near.empty()) hint = "; did you mean " + near.front() + " instead of " + arg + "?";
    }
    std::fprintf(stderr, "error: %s%s\n", error.what(), hint.c_str());
    return 2;
  }
  if (parse_only) return 0;
  configure_log({.level = LogLevel::warning, .utc = false, .json = false, .to_stdout = false});
  return action();
}
}  // namespace nibble
