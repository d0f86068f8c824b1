#include "app/progress_bar.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "base/clock.h"

namespace nibble {
ProgressBar::ProgressBar(std::string title, double unit_size, std::string rate_unit)
    : title_(std::move(title)), rate_unit_(std::move(rate_unit)), unit_size_(unit_size), began_(monotonic_seconds()), terminal_(isatty(STDERR_FILENO) != 0 && !std::getenv("NO_COLOR")) {}

ProgressBar::~ProgressBar() {
  if (terminal_ && shown_) fmt::print(stderr, "\r\033[K");
}

void ProgressBar::show(int64_t done, int64_t total, const std::string& what) {
  const double now = monotonic_seconds();
  if (first_ < 0) first_ = done, last_ = now - 1;
  if (now - last_ < (terminal_ ? 0.1 : 10.0)) return;
  last_ = now;
  shown_ = true;
  const double seconds = std::max(now - began_, 1e-3), rate = static_cast<double>(done - first_) / seconds, share = total > 0 ? static_cast<double>(done) / static_cast<double>(total) : 1;
  const std::string numbers = fmt::format("{:3.0f}%  {:.1f} {}/s  {} left", 100 * share, rate / unit_size_, rate_unit_, rate > 0 ? short_duration(static_cast<double>(total - done) / rate) : "?");
  if (!terminal_) {
    fmt::print(stderr, "{} {}  {}\n", title_, numbers, what);
  } else {
    const int filled = static_cast<int>(share * 24);
    fmt::print(stderr, "\r\033[K{} [{}{}] {}  {:.50}", title_, std::string(static_cast<size_t>(filled), '#'), std::string(static_cast<size_t>(24 - filled), '.'), numbers, what);
  }
  std::fflush(stderr);
}

std::string short_duration(double seconds) {
  const auto s = static_cast<int64_t>(seconds + 0.5);
  if (s < 60) return fmt::format("{} s", s);
  if (s < 3600) return fmt::format("{} min {} s", s / 60, s % 60);
  return fmt::format("{} h {} min", s / 3600, s % 3600 / 60);
}
}  // namespace nibble
