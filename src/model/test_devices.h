// The devices that tests of the model run on: the CPU, and a GPU where there is one.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "kernels/backend.h"

namespace nibble {
inline std::vector<std::string> devices() {
  std::vector<std::string> names{"cpu"};
  try {
    make_cuda_backend({});
    names.push_back("cuda");
  } catch (const Error&) {
  }
  return names;
}
inline std::unique_ptr<Backend> backend_on(const std::string& device, bool record = true) {
  return device == "cpu" ? make_cpu_backend({.num_threads = 2}) : make_cuda_backend({.record = record});
}
}  // namespace nibble
