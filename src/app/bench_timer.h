// How the benches time a call.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "base/clock.h"

namespace nibble {
inline double median_of(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<int64_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

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
  return median_of(std::move(times));
}
}  // namespace nibble
