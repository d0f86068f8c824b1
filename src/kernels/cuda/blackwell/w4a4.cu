#include "kernels/cuda/blackwell/w4a4.h"

#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_fp8.h>

namespace nibble::blackwell {
namespace {
// A thread takes a block of sixteen. Bound by memory: 2 bytes in, 9 / 16 out a value.
__global__ void __launch_bounds__(256) quantize(const __nv_bfloat16* x, int64_t rows, int64_t k, float global_scale, uint8_t* codes, uint8_t* scales) {
  const int64_t blocks = k / 16, i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= rows * blocks) return;
  float values[16];
  for (int half = 0; half < 2; ++half) {
    const uint4 bits = reinterpret_cast<const uint4*>(x + i * 16)[half];
    const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
    for (int j = 0; j < 4; ++j) {
      const float2 pair = __bfloat1622float2(reinterpret_cast<const __nv_bfloat162&>(words[j]));
      values[half * 8 + 2 * j] = pair.x, values[half * 8 + 2 * j + 1] = pair.y;
    }
  }
  uint8_t packed[8];
  const uint8_t scale = quantize_block(
      values, global_scale, packed, [](float v) { return static_cast<uint8_t>(__nv_cvt_float_to_fp8(v, __NV_SATFINITE, __NV_E4M3)); },
      [](uint8_t code) { return __half2float(__half(__nv_cvt_fp8_to_halfraw(code, __NV_E4M3))); });
  *reinterpret_cast<uint2*>(codes + i * 8) = make_uint2(packed[0] | packed[1] << 8 | packed[2] << 16 | static_cast<uint32_t>(packed[3]) << 24,
                                                        packed[4] | packed[5] << 8 | packed[6] << 16 | static_cast<uint32_t>(packed[7]) << 24);
  scales[scale_place(i / blocks, i % blocks, blocks)] = scale;
}

// What cuBLASLt is told about one product, freed at the end.
struct Plan {
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t weight = nullptr, input = nullptr, output = nullptr;
  cublasLtMatmulPreference_t preference = nullptr;
  ~Plan() {
    if (preference) cublasLtMatmulPreferenceDestroy(preference);
    for (cublasLtMatrixLayout_t layout : {weight, input, output}) {
      if (layout) cublasLtMatrixLayoutDestroy(layout);
    }
    if (operation) cublasLtMatmulDescDestroy(operation);
  }
};
}  // namespace

const char* multiply(const Product& p, const void* x, int64_t rows, const Scratch& scratch, float* out, void* blas, void* stream_handle) {
  const auto stream = static_cast<cudaStream_t>(stream_handle);
  const int64_t blocks = rows * p.k / 16;
  quantize<<<static_cast<unsigned>((blocks + 255) / 256), 256, 0, stream>>>(static_cast<const __nv_bfloat16*>(x), rows, p.k, p.global_scale, static_cast<uint8_t*>(scratch.codes),
                                                                            static_cast<uint8_t*>(scratch.scales));
  if (cudaGetLastError() != cudaSuccess) return "rounding the inputs to NVFP4";

  // Column by column, as cuBLAS counts: weight^T [n, k] times input [k, rows] is out [n, rows], whose columns are our rows.
  Plan plan;
  const cublasOperation_t transposed = CUBLAS_OP_T, plain = CUBLAS_OP_N;
  const cublasLtMatmulMatrixScale_t blocks_of_16 = CUBLASLT_MATMUL_MATRIX_SCALE_VEC16_UE4M3;
  const auto set = [&](cublasLtMatmulDescAttributes_t attribute, const auto& value) { return cublasLtMatmulDescSetAttribute(plan.operation, attribute, &value, sizeof value) == CUBLAS_STATUS_SUCCESS; };
  const bool described = cublasLtMatmulDescCreate(&plan.operation, CUBLAS_COMPUTE_32F, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS && set(CUBLASLT_MATMUL_DESC_TRANSA, transposed) &&
                         set(CUBLASLT_MATMUL_DESC_TRANSB, plain) && set(CUBLASLT_MATMUL_DESC_A_SCALE_MODE, blocks_of_16) && set(CUBLASLT_MATMUL_DESC_B_SCALE_MODE, blocks_of_16) &&
                         set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, p.scales) && set(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, scratch.scales) &&
                         cublasLtMatrixLayoutCreate(&plan.weight, CUDA_R_4F_E2M1, static_cast<uint64_t>(p.k), static_cast<uint64_t>(p.n), p.k) == CUBLAS_STATUS_SUCCESS &&
                         cublasLtMatrixLayoutCreate(&plan.input, CUDA_R_4F_E2M1, static_cast<uint64_t>(p.k), static_cast<uint64_t>(rows), p.k) == CUBLAS_STATUS_SUCCESS &&
                         cublasLtMatrixLayoutCreate(&plan.output, CUDA_R_32F, static_cast<uint64_t>(p.n), static_cast<uint64_t>(rows), p.n) == CUBLAS_STATUS_SUCCESS &&
                         cublasLtMatmulPreferenceCreate(&plan.preference) == CUBLAS_STATUS_SUCCESS &&
                         cublasLtMatmulPreferenceSetAttribute(plan.preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &scratch.workspace_bytes, sizeof scratch.workspace_bytes) == CUBLAS_STATUS_SUCCESS;
  if (!described) return "describing a block-scaled product to cuBLASLt";
  const auto handle = static_cast<cublasLtHandle_t>(blas);
  cublasLtMatmulHeuristicResult_t algorithm{};
  int found = 0;
  if (cublasLtMatmulAlgoGetHeuristic(handle, plan.operation, plan.weight, plan.input, plan.output, plan.output, plan.preference, 1, &algorithm, &found) != CUBLAS_STATUS_SUCCESS || found == 0) {
    return "finding a block-scaled product in cuBLASLt";
  }
  const float zero = 0.0f;
  const cublasStatus_t status = cublasLtMatmul(handle, plan.operation, &p.factor, p.codes, plan.weight, scratch.codes, plan.input, &zero, out, plan.output, out, plan.output, &algorithm.algo, scratch.workspace,
                                               static_cast<size_t>(scratch.workspace_bytes), stream);
  return status == CUBLAS_STATUS_SUCCESS ? nullptr : "a block-scaled product of cuBLASLt";
}
}  // namespace nibble::blackwell
