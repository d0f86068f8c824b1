#include "app/machine.h"

#include <unistd.h>

#include <array>
#include <cstdio>
#include <fstream>
#include <memory>

namespace nibble {
std::string machine_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  }
  return "unknown";
}

std::string host_name() {
  std::array<char, 256> name{};
  return gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "unknown";
}

std::string gpu_state() {
  constexpr const char* kQuery = "nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks_throttle_reasons.active,temperature.gpu,power.draw --format=csv,noheader 2>/dev/null";
  struct Close {
    void operator()(FILE* f) const { pclose(f); }
  };
  const std::unique_ptr<FILE, Close> pipe(popen(kQuery, "r"));
  std::string out;
  std::array<char, 512> line;
  while (pipe && std::fgets(line.data(), line.size(), pipe.get())) out += line.data();
  while (out.ends_with('\n')) out.pop_back();
  return out.find("NVIDIA") == std::string::npos ? "" : out;
}
}  // namespace nibble
