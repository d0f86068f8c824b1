// Launches with programmatic dependent launch: the kernel may begin before the one ahead of it has ended (device_code.cuh).
#pragma once

#include <cuda_runtime.h>

#include <utility>

namespace nibble::cuda {
// In clusters of `size` CTAs, which divides the grid's width.
template <typename... Params, typename... Args>
void launch_clusters(void (*kernel)(Params...), int size, dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream, Args&&... args) {
  cudaLaunchAttribute attributes[2]{};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {static_cast<unsigned>(size), 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = size > 1 ? 2 : 1;
  cudaLaunchKernelEx(&config, kernel, std::forward<Args>(args)...);
}

template <typename... Params, typename... Args>
void launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream, Args&&... args) {
  launch_clusters(kernel, 1, grid, block, shared_bytes, stream, std::forward<Args>(args)...);
}
}  // namespace nibble::cuda
