// One line of progress on stderr: a bar, a rate and the time left on a terminal, a line every ten seconds elsewhere.
#pragma once

#include <cstdint>
#include <string>

namespace nibble {
class ProgressBar {
 public:
  // rate_unit: what `unit_size` of the counted things are called, "MB" for 1e6 bytes.
  ProgressBar(std::string title, double unit_size, std::string rate_unit);
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  void show(int64_t done, int64_t total, const std::string& what);

 private:
  std::string title_, rate_unit_;
  double unit_size_, began_, last_ = 0;
  int64_t first_ = -1;  // done at the first call: of an earlier run
  bool terminal_, shown_ = false;
};

std::string short_duration(double seconds);  // "8 s", "3 min 20 s", "2 h 5 min"
}  // namespace nibble
