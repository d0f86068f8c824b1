#include "base/log.h"

#include <cstdio>
#include <ctime>
#include <mutex>

namespace nibble {
namespace {
std::mutex g_mutex;
LogOptions g_options;

constexpr std::string_view kNames[] = {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"};

std::string json_escape(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      out += fmt::format("\\u{:04x}", static_cast<int>(c));
    } else {
      out += c;
    }
  }
  return out;
}
}  // namespace

void configure_log(const LogOptions& options) {
  const std::lock_guard lock(g_mutex);
  g_options = options;
}

bool log_enabled(LogLevel level) { return level >= g_options.level; }

void log_line(LogLevel level, std::string_view text) {
  const std::lock_guard lock(g_mutex);
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  g_options.utc ? gmtime_r(&now, &parts) : localtime_r(&now, &parts);
  char stamp[32];
  std::strftime(stamp, sizeof stamp, "%Y-%m-%d %H:%M:%S", &parts);
  std::string line(text);
  std::string out;
  const std::string_view name = kNames[static_cast<int>(level)];
  if (g_options.json) {
    out = fmt::format("{{\"time\": \"{}\", \"level\": \"{}\", \"message\": \"{}\"}}\n", stamp, name, json_escape(line));
  } else {
    for (char& c : line) {
      if (c == '\n') c = ' ';
    }
    out = fmt::format("[{}] {} {}\n", stamp, name, line);
  }
  std::FILE* file = g_options.to_stdout ? stdout : stderr;
  std::fwrite(out.data(), 1, out.size(), file);
  std::fflush(file);
}
}  // namespace nibble
