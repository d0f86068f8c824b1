// What the device can do at best, measured: the bandwidth of reads, and the rate of bf16 wgmma with its operands at hand.
#pragma once

#include <cuda_runtime_api.h>

namespace nibble::cuda {
double measure_read_bandwidth(cudaStream_t stream);  // bytes a second
double measure_bf16_peak(cudaStream_t stream);       // flops a second
}  // namespace nibble::cuda
