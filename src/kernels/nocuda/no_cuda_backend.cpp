// What stands for the CUDA backend in a build without it.
#include "base/error.h"
#include "kernels/backend.h"

namespace nibble {
std::unique_ptr<Backend> make_cuda_backend(const CudaBackendOptions&) {
  raise(ErrorCode::unavailable, "--device cuda: this program was built without CUDA; use --device cpu, or build with the cuda preset");
}
bool has_cuda_device(int) { return false; }
}  // namespace nibble
