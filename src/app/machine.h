// What a result must say about where it came from.
#pragma once

#include <string>

namespace nibble {
std::string machine_name();  // the CPU's
std::string host_name();
// One line of nvidia-smi per GPU: "NVIDIA H200, driver 580.82, SM 1980 MHz, throttle 0x0"; empty without a GPU.
std::string gpu_state();
}  // namespace nibble
