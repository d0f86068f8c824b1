// One line per event. Format on stderr (or stdout for the server): "[2026-01-31 12:34:56] INFO text".
#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>

namespace nibble {
enum class LogLevel { debug, info, warning, error, critical };

struct LogOptions {
  LogLevel level = LogLevel::info;
  bool utc = false;
  bool json = false;        // one object per line instead of text
  bool to_stdout = false;   // `serve` logs to stdout, as its users' scripts expect
};
void configure_log(const LogOptions& options);
bool log_enabled(LogLevel level);
void log_line(LogLevel level, std::string_view text);  // thread-safe; newlines in text become spaces

template <typename... Args>
void log_debug(fmt::format_string<Args...> format, Args&&... args) {
  if (log_enabled(LogLevel::debug)) log_line(LogLevel::debug, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void log_info(fmt::format_string<Args...> format, Args&&... args) {
  if (log_enabled(LogLevel::info)) log_line(LogLevel::info, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void log_warning(fmt::format_string<Args...> format, Args&&... args) {
  if (log_enabled(LogLevel::warning)) log_line(LogLevel::warning, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void log_error(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::error, fmt::format(format, std::forward<Args>(args)...));
}
}  // namespace nibble
