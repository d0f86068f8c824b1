#include "engine/stop_strings.h"

#include <algorithm>

namespace nibble {
StopStrings::StopStrings(std::vector<std::string> stops, bool keep_match) : stops_(std::move(stops)), keep_match_(keep_match) {
  std::erase_if(stops_, [](const std::string& s) { return s.empty(); });
}

bool StopStrings::push(std::string_view text, std::string& out) {
  if (!matched_.empty()) return true;
  if (stops_.empty()) {
    out += text;
    return false;
  }
  held_ += text;
  size_t first = std::string::npos;
  for (const std::string& stop : stops_) {
    const size_t at = held_.find(stop);
    if (at < first) {
      first = at;
      matched_ = stop;
    }
  }
  if (first != std::string::npos) {
    out.append(held_, 0, first + (keep_match_ ? matched_.size() : 0));
    held_.clear();
    return true;
  }
  // The longest tail that some stop string begins with.
  size_t keep = 0;
  for (const std::string& stop : stops_) {
    for (size_t n = std::min(stop.size() - 1, held_.size()); n > keep; --n) {
      if (held_.ends_with(std::string_view(stop).substr(0, n))) keep = n;
    }
  }
  out.append(held_, 0, held_.size() - keep);
  held_.erase(0, held_.size() - keep);
  return false;
}

void StopStrings::flush(std::string& out) {
  out += held_;
  held_.clear();
}
}  // namespace nibble
