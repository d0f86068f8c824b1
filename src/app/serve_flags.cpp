#include "app/serve_flags.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/file_io.h"
#include "base/nearest.h"

namespace nibble {
namespace {
enum class Fate { use, ignore, refuse };
enum class Type { text, integer, number, boolean, json };

struct Flag {
  const char* name;
  Type type;
  Fate fate;
  const char* fallback;  // of used flags
  const char* help;      // meaning; why ignored; why refused and what instead
};

// The order is that of --help.
const Flag kFlags[] = {
    {"model-path", Type::text, Fate::use, "demo", "model folder, id in the local Hugging Face cache, or demo"},
    {"revision", Type::text, Fate::use, "", "branch or commit in the cache"},
    {"download-dir", Type::text, Fate::use, "", "the cache (default: $HF_HOME/hub)"},
    {"tokenizer-path", Type::text, Fate::use, "", "folder of the tokenizer (default: the model's)"},
    {"load-format", Type::text, Fate::use, "auto", "auto, safetensors, dummy (random weights)"},
    {"context-length", Type::integer, Fate::use, "0", "longest sequence (default: the config's)"},
    {"json-model-override-args", Type::json, Fate::use, "", "JSON merged into config.json"},
    {"device", Type::text, Fate::use, "auto", "auto, cpu"},
    {"threads", Type::integer, Fate::use, "0", "CPU threads (default: one per core)"},
    {"dtype", Type::text, Fate::use, "auto", "auto, bfloat16, float32"},
    {"quantization", Type::text, Fate::use, "", "must agree with the checkpoint: modelopt_fp4, modelopt_fp8, modelopt"},
    {"kv-cache-dtype", Type::text, Fate::use, "auto", "auto, bfloat16, fp8_e4m3"},
    {"activation-quant", Type::text, Fate::use, "auto", "auto, none, nvfp4"},
    {"served-model-name", Type::text, Fate::use, "", "names in /v1/models, separated by commas"},
    {"strict-model-name", Type::boolean, Fate::use, "false", "other names in requests give 404"},
    {"weight-version", Type::text, Fate::use, "default", "shown in responses"},
    {"host", Type::text, Fate::use, "127.0.0.1", "address to listen on"},
    {"port", Type::integer, Fate::use, "30000", "port; 0: any free one"},
    {"api-key", Type::text, Fate::use, "", "key that clients must send"},
    {"admin-api-key", Type::text, Fate::use, "", "key of the management routes"},
    {"max-request-body-mb", Type::integer, Fate::use, "64", "larger bodies give 413"},
    {"http-keep-alive-timeout", Type::integer, Fate::use, "30", "seconds an idle connection stays open"},
    {"log-level", Type::text, Fate::use, "info", "debug, info, warning, error, critical"},
    {"log-format", Type::text, Fate::use, "text", "text, json"},
    {"log-utc", Type::boolean, Fate::use, "false", "log times in UTC"},
    {"skip-server-warmup", Type::boolean, Fate::use, "false", "be ready without a first forward"},
    {"chat-template", Type::text, Fate::use, "", "Jinja file, or the template itself"},
    {"hf-chat-template-name", Type::text, Fate::use, "", "one of several named templates"},
    {"default-chat-template-kwargs", Type::json, Fate::use, "", "JSON defaults of chat_template_kwargs"},
    {"reasoning-parser", Type::text, Fate::use, "gemma4", "gemma4, auto, none"},
    {"tool-call-parser", Type::text, Fate::use, "gemma4", "gemma4, auto, none"},
    {"sampling-defaults", Type::text, Fate::use, "model", "model (generation_config.json), openai"},
    {"trust-special-tokens-in-text", Type::boolean, Fate::use, "false", "let message text spell control tokens"},
    {"enable-multimodal", Type::boolean, Fate::use, "true", "take images, audio and video"},
    {"limit-mm-data-per-request", Type::json, Fate::use, "", "JSON, most media of a request: {\"image\": 64, ...}"},
    {"mm-process-config", Type::json, Fate::use, "", "JSON: {\"image\": {\"max_soft_tokens\": 280}, ...}"},
    {"allowed-local-media-path", Type::text, Fate::use, "", "requests may name files under this folder"},
    {"max-running-requests", Type::integer, Fate::use, "256", "sequences computed at once"},
    {"max-queued-requests", Type::integer, Fate::use, "4096", "beyond it: 503"},
    {"max-total-tokens", Type::integer, Fate::use, "0", "tokens in the KV cache (default: automatic)"},
    {"chunked-prefill-size", Type::integer, Fate::use, "512", "prompt tokens in one step"},
    {"schedule-policy", Type::text, Fate::use, "fcfs", "fcfs, lpm, lof, random"},
    {"disable-radix-cache", Type::boolean, Fate::use, "false", "no reuse of prefixes"},
    {"random-seed", Type::integer, Fate::use, "", "base of the seeds of requests without one"},
    {"decode-log-interval", Type::integer, Fate::use, "40", "steps between two decode log lines"},
    {"speculative-algorithm", Type::text, Fate::use, "", "NEXTN, EAGLE, FROZEN_KV_MTP: draft with the model's MTP assistant"},
    {"speculative-draft-model-path", Type::text, Fate::use, "", "folder of the assistant"},
    {"speculative-draft-model-quantization", Type::text, Fate::use, "", "unquant"},
    {"speculative-num-steps", Type::integer, Fate::use, "", "drafts a round (default: 5)"},
    {"speculative-num-draft-tokens", Type::integer, Fate::use, "", "must be num-steps + 1 (default)"},
    {"speculative-eagle-topk", Type::integer, Fate::use, "", "1 (default)"},
    {"speculative-adaptive", Type::text, Fate::use, "on", "on: at most num-steps drafts, as measured time advises; off: always"},
    {"per-request-spec-decode-metrics", Type::text, Fate::use, "off", "off, summary, detailed: put into replies"},
    {"shutdown-timeout", Type::integer, Fate::use, "30", "seconds that running requests get at SIGTERM"},

    {"tokenizer-mode", Type::text, Fate::ignore, "", "there is one tokenizer"},
    {"trust-remote-code", Type::boolean, Fate::ignore, "", "no Python code is run"},
    {"model-impl", Type::text, Fate::ignore, "", "there is one implementation"},
    {"quantization-param-path", Type::text, Fate::ignore, "", "KV scales are 1.0 by design"},
    {"mem-fraction-static", Type::number, Fate::ignore, "", "the CPU backend takes its KV cache size from --max-total-tokens"},
    {"max-prefill-tokens", Type::integer, Fate::ignore, "", "--chunked-prefill-size bounds a step"},
    {"page-size", Type::integer, Fate::ignore, "", "pages have 16 tokens"},
    {"schedule-conservativeness", Type::number, Fate::ignore, "", "preempted requests are recomputed with the same outcome"},
    {"swa-full-tokens-ratio", Type::number, Fate::ignore, "", "both pools have the same number of pages"},
    {"disable-hybrid-swa-memory", Type::boolean, Fate::ignore, "", "sliding layers always keep the window only"},
    {"radix-eviction-policy", Type::text, Fate::ignore, "", "least recently used"},
    {"enable-mixed-chunk", Type::boolean, Fate::ignore, "", "prefill and decode always share steps"},
    {"disable-overlap-schedule", Type::boolean, Fate::ignore, "", "there is nothing to overlap on a CPU"},
    {"num-continuous-decode-steps", Type::integer, Fate::ignore, "", "every step is scheduled"},
    {"scheduler-recv-interval", Type::integer, Fate::ignore, "", "requests are taken at every step"},
    {"enable-deterministic-inference", Type::boolean, Fate::ignore, "", "results never depend on the load"},
    {"enable-metrics", Type::boolean, Fate::ignore, "", "metrics are always on"},
    {"enable-cache-report", Type::boolean, Fate::ignore, "", "cached tokens are always reported"},
    {"attention-backend", Type::text, Fate::ignore, "", "own kernels"},
    {"decode-attention-backend", Type::text, Fate::ignore, "", "own kernels"},
    {"prefill-attention-backend", Type::text, Fate::ignore, "", "own kernels"},
    {"sampling-backend", Type::text, Fate::ignore, "", "own kernels"},
    {"mm-attention-backend", Type::text, Fate::ignore, "", "own kernels"},
    {"fp8-gemm-backend", Type::text, Fate::ignore, "", "own kernels"},
    {"fp4-gemm-backend", Type::text, Fate::ignore, "", "own kernels"},
    {"grammar-backend", Type::text, Fate::ignore, "", "structured output is not available in this build"},
    {"speculative-attention-mode", Type::text, Fate::ignore, "", "own kernels"},
    {"speculative-draft-attention-backend", Type::text, Fate::ignore, "", "own kernels"},
    {"speculative-draft-load-format", Type::text, Fate::ignore, "", "as --load-format"},
    {"disable-cuda-graph", Type::boolean, Fate::ignore, "", "there is no CUDA graph on a CPU"},
    {"disable-decode-cuda-graph", Type::boolean, Fate::ignore, "", "there is no CUDA graph on a CPU"},
    {"cuda-graph-max-bs", Type::integer, Fate::ignore, "", "there is no CUDA graph on a CPU"},
    {"cuda-graph-max-bs-decode", Type::integer, Fate::ignore, "", "there is no CUDA graph on a CPU"},
    {"base-gpu-id", Type::integer, Fate::ignore, "", "this build computes on the CPU"},
    {"watchdog-timeout", Type::number, Fate::ignore, "", "/health reports a stuck engine"},
    {"sleep-on-idle", Type::boolean, Fate::ignore, "", "always on"},
    {"stream-interval", Type::integer, Fate::ignore, "", "every step's tokens are sent at once"},
    {"enable-strict-thinking", Type::boolean, Fate::ignore, "", "thoughts are recognized by their markers"},
    {"show-time-cost", Type::boolean, Fate::ignore, "", "use --log-level debug"},

    {"allowed-media-domains", Type::text, Fate::refuse, "", "nothing is fetched over the network; clients send data: URLs"},
    {"skip-tokenizer-init", Type::boolean, Fate::refuse, "", "requests come as text; leave it out"},
    {"is-embedding", Type::boolean, Fate::refuse, "", "this server generates text; leave it out"},
    {"quantize-and-serve", Type::boolean, Fate::refuse, "", "weights are not quantized while serving; make a quantized checkpoint first"},
    {"ssl-keyfile", Type::text, Fate::refuse, "", "TLS is not built in; put a reverse proxy in front"},
    {"ssl-certfile", Type::text, Fate::refuse, "", "TLS is not built in; put a reverse proxy in front"},
    {"enable-http2", Type::boolean, Fate::refuse, "", "HTTP/1.1 only; put a reverse proxy in front"},
    {"enable-custom-logit-processor", Type::boolean, Fate::refuse, "", "no Python code is run; use logit_bias"},
    {"tool-server", Type::text, Fate::refuse, "", "tools are run by the client"},
    {"completion-template", Type::text, Fate::refuse, "", "completions take the prompt as it is"},
    {"speculative-adaptive-config", Type::text, Fate::refuse, "", "the number of drafts follows measured time; use --speculative-adaptive on or off"},
    {"speculative-use-rejection-sampling", Type::boolean, Fate::refuse, "", "drafts are checked by the target's own draws, which is as lossless and repeats with the seed; leave it out"},
    {"enable-lora", Type::boolean, Fate::refuse, "", "adapters are not supported; merge them into the checkpoint"},
    {"lora-paths", Type::text, Fate::refuse, "", "adapters are not supported; merge them into the checkpoint"},
    {"enable-priority-scheduling", Type::boolean, Fate::refuse, "", "use --schedule-policy"},
    {"enable-hierarchical-cache", Type::boolean, Fate::refuse, "", "the prefix cache lies in memory only"},
    {"enable-dp-attention", Type::boolean, Fate::refuse, "", "one device per server; start several and balance"},
};

// Refused only when they ask for more than one device.
constexpr const char* kSingleDevice[] = {"tp-size", "tensor-parallel-size", "dp-size", "pp-size", "ep-size", "nnodes"};

const Flag* find(const std::string& name) {
  for (const Flag& flag : kFlags) {
    if (name == flag.name) return &flag;
  }
  return nullptr;
}

// 25.6k = 25600, 4Ki = 4096.
std::optional<int64_t> parse_integer(const std::string& text) {
  static const std::pair<const char*, double> kSuffixes[] = {{"Ki", 1024.0}, {"Mi", 1048576.0}, {"Gi", 1073741824.0}, {"Ti", 1099511627776.0}, {"k", 1e3}, {"M", 1e6}, {"G", 1e9}, {"T", 1e12}};
  for (const auto& [suffix, factor] : kSuffixes) {
    if (!text.ends_with(suffix)) continue;
    const std::string digits = text.substr(0, text.size() - std::string(suffix).size());
    double value = 0;
    const auto [end, status] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    const bool whole = std::string(suffix).size() == 1 || value == std::floor(value);
    if (status != std::errc() || end != digits.data() + digits.size() || !whole || value * factor >= 9e18) return std::nullopt;
    return static_cast<int64_t>(value * factor);
  }
  int64_t value = 0;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), value);
  return status == std::errc() && end == text.data() + text.size() ? std::optional(value) : std::nullopt;
}

class Reader {
 public:
  explicit Reader(std::vector<std::string>& problems) : problems_(problems) {
    for (const Flag& flag : kFlags) {
      if (flag.fate == Fate::use) flags_.values[flag.name] = flag.fallback;
    }
  }

  void read(std::span<const std::string> args) {
    for (size_t i = 0; i < args.size(); ++i) {
      const std::string& arg = args[i];
      if (arg == "-h" || arg == "--help") {
        flags_.help = true;
      } else if (arg == "--help-all") {
        flags_.help = flags_.help_all = true;
      } else if (arg == "--version") {
        flags_.version = true;
      } else if (!arg.starts_with("--")) {
        arg.starts_with("-") && arg.size() > 1 ? problem("{}: unknown option; long options only", arg) : take_positional(arg);
      } else {
        i += take(arg, i + 1 < args.size() ? &args[i + 1] : nullptr);
      }
    }
  }

  ServeFlags finish() { return std::move(flags_); }

 private:
  template <typename... Args>
  void problem(fmt::format_string<Args...> format, Args&&... args) {
    problems_.push_back("error: " + fmt::format(format, std::forward<Args>(args)...));
  }

  void take_positional(const std::string& arg) {
    if (std::exchange(positional_, true)) {
      problem("{}: a second positional argument; only the model's path is one", arg);
    } else {
      flags_.values["model-path"] = arg;
      flags_.given.push_back("--model-path " + arg);
    }
  }

  // Returns how many further arguments it took.
  size_t take(const std::string& arg, const std::string* following) {
    const size_t equals = arg.find('=');
    std::string name = arg.substr(2, equals == std::string::npos ? std::string::npos : equals - 2);
    std::replace(name.begin(), name.end(), '_', '-');
    if (name == "model") name = "model-path";
    if (name == "speculative-draft-model") name = "speculative-draft-model-path";
    std::optional<std::string> value = equals == std::string::npos ? std::nullopt : std::optional(arg.substr(equals + 1));
    // Bare, or with a value.
    if (name == "speculative-adaptive" && !value && (!following || following->starts_with("-"))) value = "on";
    if (name == "no-speculative-adaptive") name = "speculative-adaptive", value = "off";
    if (name.starts_with("speculative-accept-threshold-")) {
      if (!value && following) value = *following;
      const size_t used = equals == std::string::npos && following ? 1 : 0;
      char* end = nullptr;
      const double threshold = std::strtod(value ? value->c_str() : "", &end);
      if (threshold != 1.0) problem("--{} {}: only 1.0; less would give other output than the model alone", name, value.value_or(""));
      return used;
    }
    if (name == "config") return take_config(value ? *value : following ? *following : "", value ? 0 : 1);

    const bool single = std::find(std::begin(kSingleDevice), std::end(kSingleDevice), name) != std::end(kSingleDevice);
    bool negated = false;
    const Flag* flag = find(name);
    if (!flag && name.starts_with("no-")) {
      flag = find(name.substr(3));
      negated = flag && flag->type == Type::boolean;
      if (!negated) flag = nullptr;
    }
    if (!flag && !single) {
      unknown(name);
      return 0;
    }
    if (flag && flag->type == Type::boolean) {
      if (value) problem("--{} takes no value, found '{}'", name, *value);
      apply(*flag, negated ? "false" : "true");
      return 0;
    }
    size_t used = 0;
    if (!value) {
      if (!following) {
        problem("--{} wants a value", name);
        return 0;
      }
      value = *following;
      used = 1;
    }
    if (single) {
      if (*value != "1") problem("--{} {}: one device per server; start several servers and balance", name, *value);
    } else {
      apply(*flag, *value);
    }
    return used;
  }

  void apply(const Flag& flag, const std::string& value) {
    const std::string shown = flag.type == Type::boolean ? fmt::format("--{}{}", value == "false" ? "no-" : "", flag.name) : fmt::format("--{} {}", flag.name, value);
    if (flag.fate == Fate::refuse) {
      if (value != "false") problem("{}: {}", shown, flag.help);
      return;
    }
    if (flag.type == Type::integer) {
      const auto number = parse_integer(value);
      if (!number) return problem("{}: wanted an integer", shown);
      if (flag.fate == Fate::use) flags_.values[flag.name] = std::to_string(*number);
    } else if (flag.type == Type::number) {
      char* end = nullptr;
      std::strtod(value.c_str(), &end);
      if (value.empty() || *end != '\0') return problem("{}: wanted a number", shown);
    } else if (flag.type == Type::json) {
      if (!nlohmann::json::parse(value, nullptr, false).is_object()) return problem("{}: wanted a JSON object", shown);
    }
    if (flag.fate == Fate::ignore) {
      flags_.ignored.push_back(fmt::format("flag --{} is accepted for compatibility and has no effect: {}", flag.name, flag.help));
      return;
    }
    if (flag.type != Type::integer) flags_.values[flag.name] = value;
    const bool secret = std::string(flag.name).ends_with("api-key");
    flags_.given.push_back(secret ? fmt::format("--{} ***", flag.name) : shown);
  }

  size_t take_config(const std::string& path, size_t used) {
    try {
      const auto config = nlohmann::json::parse(read_file(path), nullptr, false);
      if (!config.is_object()) {
        problem("--config {}: wanted a JSON object of option names and values", path);
        return used;
      }
      for (const auto& [key, value] : config.items()) {
        if (value.is_boolean()) {
          take((value.get<bool>() ? "--" : "--no-") + key, nullptr);
        } else {
          take("--" + key + "=" + (value.is_string() ? value.get<std::string>() : value.dump()), nullptr);
        }
      }
    } catch (const std::exception& error) {
      problem("--config: {}", error.what());
    }
    return used;
  }

  void unknown(const std::string& name) {
    std::vector<std::string> known;
    for (const Flag& flag : kFlags) known.emplace_back(flag.name);
    std::string hint;
    for (const std::string& near : nearest_names(name, known)) hint += (hint.empty() ? "; did you mean --" : " or --") + near;
    problem("--{}: unknown flag{}", name, hint.empty() ? "; see nibble serve --help" : hint + "?");
  }

  std::vector<std::string>& problems_;
  ServeFlags flags_;
  bool positional_ = false;
};

void check_one_of(const ServeFlags& flags, const char* name, std::initializer_list<const char*> allowed, std::vector<std::string>& problems) {
  std::string list;
  for (const char* a : allowed) {
    if (flags.text(name) == a) return;
    list += (list.empty() ? "" : ", ") + std::string(a);
  }
  problems.push_back(fmt::format("error: --{} {}: wanted one of {}", name, flags.text(name), list));
}

void check_range(const ServeFlags& flags, const char* name, int64_t low, int64_t high, std::vector<std::string>& problems) {
  const int64_t value = flags.integer(name);
  if (value < low || value > high) problems.push_back(fmt::format("error: --{} {}: wanted {} to {}", name, value, low, high));
}
}  // namespace

int64_t ServeFlags::integer(const std::string& name) const { return values.at(name).empty() ? 0 : std::stoll(values.at(name)); }

ServeFlags parse_serve_flags(std::span<const std::string> args, std::vector<std::string>& problems) {
  Reader reader(problems);
  reader.read(args);
  ServeFlags flags = reader.finish();
  check_one_of(flags, "reasoning-parser", {"gemma4", "auto", "none"}, problems);
  check_one_of(flags, "tool-call-parser", {"gemma4", "auto", "none"}, problems);
  check_one_of(flags, "sampling-defaults", {"model", "openai"}, problems);
  check_one_of(flags, "log-level", {"debug", "info", "warning", "error", "critical"}, problems);
  check_one_of(flags, "log-format", {"text", "json"}, problems);
  check_one_of(flags, "speculative-adaptive", {"on", "off"}, problems);
  check_one_of(flags, "per-request-spec-decode-metrics", {"off", "summary", "detailed"}, problems);
  check_one_of(flags, "schedule-policy", {"fcfs", "lpm", "lof", "random"}, problems);
  check_range(flags, "port", 0, 65535, problems);
  check_range(flags, "threads", 0, 1024, problems);
  check_range(flags, "context-length", 0, 1 << 30, problems);
  check_range(flags, "max-total-tokens", 0, int64_t{1} << 34, problems);
  check_range(flags, "max-running-requests", 1, 4096, problems);
  check_range(flags, "max-queued-requests", 0, 1 << 20, problems);
  check_range(flags, "max-request-body-mb", 1, 4096, problems);
  check_range(flags, "http-keep-alive-timeout", 1, 86400, problems);
  check_range(flags, "shutdown-timeout", 0, 86400, problems);
  check_range(flags, "decode-log-interval", 0, 1 << 30, problems);
  if (flags.integer("chunked-prefill-size") == -1) flags.values["chunked-prefill-size"] = "8192";
  check_range(flags, "chunked-prefill-size", 1, 1 << 16, problems);
  return flags;
}

std::string serve_help(bool all) {
  std::string out =
      "nibble serve [MODEL] [flags]: an OpenAI-compatible server\n\n"
      "  nibble serve                          the demo model on http://127.0.0.1:30000\n"
      "  nibble serve DIR --port 8000          a checkpoint in Hugging Face layout\n\n";
  for (const Flag& flag : kFlags) {
    if (flag.fate == Fate::refuse || (flag.fate == Fate::ignore && !all)) continue;
    std::string text = flag.help;
    if (flag.fate == Fate::ignore) {
      text = "(no effect) " + text;
    } else if (*flag.fallback && flag.type != Type::boolean && text.find("default") == std::string::npos) {
      text += fmt::format(" [{}]", flag.fallback);
    }
    std::string line = fmt::format("  --{:<30} ", flag.name);
    // Continued lines begin under the text.
    for (size_t at = 0; at < text.size();) {
      size_t end = text.size();
      const size_t room = 80 - 35;
      if (end - at > room) {
        end = text.rfind(' ', at + room);
        if (end == std::string::npos || end <= at) end = at + room;
      }
      out += line + text.substr(at, end - at) + "\n";
      at = end + (end < text.size() && text[end] == ' ');
      line = std::string(35, ' ');
    }
  }
  return out;
}
}  // namespace nibble
