// How the benches time a call.
#pragma once

#include <algorithm>
#include <vector>

#include "base/clock.h"

namespace nibble {
// The median time of one call, over at least `seconds`.
template <typename Call>
double median_seconds(double seconds, const Call& call) {
  call();
  std::vector<double> times;
  for (const double began = monotonic_seconds(); monotonic_seconds() - began < seconds || times.size() < 3;) {
    const double t = monotonic_seconds();
    call();
    times.push_back(monotonic_seconds() - t);
  }
  std::nth_element(times.begin(), times.begin() + static_cast<int64_t>(times.size() / 2), times.end());
  return times[times.size() / 2];
}
}  // namespace nibble
