#include "app/serve_flags.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "app/config_file.h"
#include "app/serve_flag_table.h"
#include "base/file_io.h"
#include "base/nearest.h"

namespace nibble {
namespace {
using Type = Flag::Type;
using Fate = Flag::Fate;

// Refused only when they ask for more than one device.
constexpr const char* kSingleDevice[] = {"tp-size", "tensor-parallel-size", "dp-size", "pp-size", "ep-size", "nnodes"};

const Flag* find(const std::string& name) {
  for (const Flag& flag : serve_flag_table()) {
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

std::optional<std::vector<double>> parse_numbers(const std::string& text) {
  std::vector<double> out;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find_first_of(", ", at), text.size());
    double value = 0;
    const auto [stop, status] = std::from_chars(text.data() + at, text.data() + end, value);
    if (status != std::errc() || stop != text.data() + end) return std::nullopt;
    out.push_back(value);
    at = end + 1;
  }
  return out;
}

class Reader {
 public:
  explicit Reader(std::vector<std::string>& problems) : problems_(problems) {
    for (const Flag& flag : serve_flag_table()) {
      if (flag.fate == Fate::use) flags_.values[flag.name] = flag.fallback;
    }
  }

  void read(std::span<const std::string> args) {
    // First, so that the command line wins.
    for (size_t i = 0; i < args.size(); ++i) {
      if (args[i].starts_with("--config=")) take_config(args[i].substr(9));
      if (args[i] == "--config" && i + 1 < args.size()) take_config(args[i + 1]);
    }
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
    if (name == "fastapi-root-path") name = "root-path";
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
    if (name == "config") {
      if (!value && !following) problem("--config wants a value");
      return value || !following ? 0 : 1;
    }

    const bool single = std::find(std::begin(kSingleDevice), std::end(kSingleDevice), name) != std::end(kSingleDevice);
    bool negated = false;
    const Flag* flag = find(name);
    if (!flag && name.starts_with("no-")) {
      flag = find(name.substr(3));
      negated = flag && flag->type == Type::boolean;
      if (!negated) flag = nullptr;
    }
    if (!flag && !single) {
      const Flag* family = serve_flag_family(name);
      if (!family) {
        unknown(name);
        return 0;
      }
      // Whether it takes a value is not known: what follows is one unless it looks like a flag.
      const bool takes = !value && following && !following->starts_with("--");
      if (takes) value = *following;
      apply(*family, value.value_or(""), name);
      return takes ? 1 : 0;
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

  void apply(const Flag& flag, const std::string& value, std::string name = {}) {
    if (name.empty()) name = flag.name;
    const std::string shown = flag.type == Type::boolean ? fmt::format("--{}{}", value == "false" ? "no-" : "", name) : fmt::format("--{} {}", name, value);
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
    } else if (flag.type == Type::numbers) {
      const auto numbers = parse_numbers(value);
      if (!numbers || !std::is_sorted(numbers->begin(), numbers->end())) return problem("{}: wanted rising numbers separated by commas", shown);
    } else if (flag.type == Type::json) {
      if (!nlohmann::json::parse(value, nullptr, false).is_object()) return problem("{}: wanted a JSON object", shown);
    }
    if (flag.fate == Fate::ignore) {
      flags_.ignored.push_back(fmt::format("flag --{} is accepted for compatibility and has no effect: {}", name, flag.help));
      return;
    }
    if (flag.type != Type::integer) flags_.values[flag.name] = value;
    const bool secret = std::string(flag.name).ends_with("api-key");
    flags_.given.push_back(secret ? fmt::format("--{} ***", flag.name) : shown);
  }

  void take_config(const std::string& path) {
    try {
      const auto entries = parse_config(read_file(path));
      if (!entries) return problem("--config {}: {}", path, entries.error().message);
      for (const ConfigEntry& entry : *entries) {
        if (entry.name == "config") {
          problem("--config {}: a file cannot name another one", path);
        } else if (entry.is_switch) {
          take((entry.value == "true" ? "--" : "--no-") + entry.name, nullptr);
        } else {
          take("--" + entry.name + "=" + entry.value, nullptr);
        }
      }
    } catch (const std::exception& error) {
      problem("--config: {}", error.what());
    }
  }

  void unknown(const std::string& name) {
    std::vector<std::string> known;
    for (const Flag& flag : serve_flag_table()) known.emplace_back(flag.name);
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

double ServeFlags::number(const std::string& name) const { return values.at(name).empty() ? 0.0 : std::stod(values.at(name)); }
std::vector<double> ServeFlags::numbers(const std::string& name) const { return values.at(name).empty() ? std::vector<double>() : parse_numbers(values.at(name)).value(); }

ServeFlags parse_serve_flags(std::span<const std::string> args, std::vector<std::string>& problems) {
  Reader reader(problems);
  reader.read(args);
  ServeFlags flags = reader.finish();
  check_one_of(flags, "reasoning-parser", {"gemma4", "auto", "none"}, problems);
  check_one_of(flags, "grammar-backend", {"xgrammar", "outlines", "llguidance", "none"}, problems);
  check_one_of(flags, "tool-call-parser", {"gemma4", "auto", "none"}, problems);
  check_one_of(flags, "sampling-defaults", {"model", "openai"}, problems);
  check_one_of(flags, "log-level", {"debug", "info", "warning", "error", "critical"}, problems);
  if (!flags.text("log-level-http").empty()) check_one_of(flags, "log-level-http", {"debug", "info", "warning", "error", "critical"}, problems);
  check_one_of(flags, "log-format", {"text", "json"}, problems);
  check_one_of(flags, "log-requests-format", {"text", "json"}, problems);
  check_range(flags, "log-requests-level", 0, 3, problems);
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
  check_range(flags, "http-read-timeout", 1, 86400, problems);
  check_range(flags, "http-write-timeout", 1, 86400, problems);
  check_range(flags, "max-connections", 1, 1 << 20, problems);
  check_range(flags, "shutdown-timeout", 0, 86400, problems);
  check_range(flags, "shutdown-delay", 0, 86400, problems);
  check_range(flags, "constrained-json-max-whitespace-cnt", 0, 1000, problems);
  check_range(flags, "decode-log-interval", 0, 1 << 30, problems);
  if (flags.integer("chunked-prefill-size") == -1) flags.values["chunked-prefill-size"] = "8192";
  check_range(flags, "chunked-prefill-size", 0, 1 << 16, problems);
  return flags;
}

std::string serve_help(bool all) {
  std::string out =
      "nibble serve [MODEL] [flags]: an OpenAI-compatible server\n\n"
      "  nibble serve                          the demo model on http://127.0.0.1:30000\n"
      "  nibble serve DIR --port 8000          a checkpoint in Hugging Face layout\n"
      "  nibble serve --config FILE            options from a file, YAML or JSON\n\n";
  for (const Flag& flag : serve_flag_table()) {
    if (flag.fate == Fate::refuse || (flag.fate == Fate::ignore && !all)) continue;
    std::string text = flag.help;
    if (flag.fate == Fate::ignore) {
      text = "(no effect) " + text;
    } else if (*flag.fallback && flag.type != Type::boolean && text.find("default") == std::string::npos) {
      text += fmt::format(" [{}]", flag.fallback);
    }
    std::string line = fmt::format("  --{:<30} ", flag.name);
    if (line.size() > 35) out += std::exchange(line, std::string(35, ' ')) + "\n";
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
