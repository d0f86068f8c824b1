// Memory of the device, and errors of the runtime as ours.
#pragma once

#include <cuda_runtime.h>

#include <memory>

#include "base/error.h"

namespace nibble::cuda {
inline void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  raise(status == cudaErrorMemoryAllocation ? ErrorCode::out_of_memory : ErrorCode::internal, "{}: {}", what, cudaGetErrorString(status));
}

struct FreeDevice {
  void operator()(void* p) const noexcept { cudaFree(p); }
};
using DeviceMemory = std::unique_ptr<void, FreeDevice>;

inline DeviceMemory device_memory(int64_t bytes, const char* what) {
  void* p = nullptr;
  if (const cudaError_t status = bytes > 0 ? cudaMalloc(&p, static_cast<size_t>(bytes)) : cudaSuccess; status != cudaSuccess) {
    (void)cudaGetLastError();
    if (status != cudaErrorMemoryAllocation) check(status, what);
    size_t free = 0, total = 0;
    cudaMemGetInfo(&free, &total);
    raise(ErrorCode::out_of_memory, "{}: wanted {} MiB of device memory, {} of {} MiB are free", what, bytes >> 20, free >> 20, total >> 20);
  }
  return DeviceMemory(p);
}
}  // namespace nibble::cuda
