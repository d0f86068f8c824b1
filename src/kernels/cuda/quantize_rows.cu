#include "kernels/cuda/quantize_rows.h"

#include <cuda_fp8.h>

#include "kernels/cuda/device_code.cuh"
#include "kernels/cuda/launch.cuh"

namespace nibble::cuda {
namespace {
// |x| to the nearest of 0, 1/2, 1, 3/2, 2, 3, 4, 6; ties go to the even code.
__device__ __forceinline__ float nearest_e2m1(float x) {
  const float a = fabsf(x);
  float value = 0.0f;
  if (a > 0.25f) value = 0.5f;
  if (a >= 0.75f) value = 1.0f;
  if (a > 1.25f) value = 1.5f;
  if (a >= 1.75f) value = 2.0f;
  if (a > 2.5f) value = 3.0f;
  if (a >= 3.5f) value = 4.0f;
  if (a > 5.0f) value = 6.0f;
  return x < 0.0f ? -value : value;
}

// A thread takes eight values, two threads a block of sixteen.
__global__ void __launch_bounds__(256) round_rows(const uint4* x, float global_scale, uint4* out, int64_t count) {
  let_next_kernel_start();
  wait_for_earlier_kernels();
  // Whole warps go round together: `count` is even, and a block's two threads are neighbours in one warp.
  for (int64_t base = int64_t{blockIdx.x} * blockDim.x; base < count; base += int64_t{gridDim.x} * blockDim.x) {
    const int64_t i = base + threadIdx.x;
    const uint4 bits = i < count ? x[i] : make_uint4(0, 0, 0, 0);
    const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
    float values[8], highest = 0.0f;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float2 pair = __bfloat1622float2(reinterpret_cast<const __nv_bfloat162&>(words[j]));
      values[2 * j] = pair.x, values[2 * j + 1] = pair.y;
      highest = fmaxf(highest, fmaxf(fabsf(pair.x), fabsf(pair.y)));
    }
    highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 1));
    const __nv_fp8_storage_t code = __nv_cvt_float_to_fp8(__fdiv_rn(__fdiv_rn(highest, 6.0f), global_scale), __NV_SATFINITE, __NV_E4M3);
    const float scale = __half2float(__half(__nv_cvt_fp8_to_halfraw(code, __NV_E4M3))), step = __fmul_rn(scale, global_scale);
    uint32_t rounded[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float low = step == 0.0f ? 0.0f : nearest_e2m1(__fdiv_rn(values[2 * j], step)) * scale;
      const float high = step == 0.0f ? 0.0f : nearest_e2m1(__fdiv_rn(values[2 * j + 1], step)) * scale;
      rounded[j] = pack_bf16(low, high);
    }
    if (i < count) out[i] = make_uint4(rounded[0], rounded[1], rounded[2], rounded[3]);
  }
}
}  // namespace

void quantize_nvfp4_rows(const __nv_bfloat16* x, float global_scale, __nv_bfloat16* out, int rows, int width, cudaStream_t stream) {
  const int64_t count = int64_t{rows} * width / 8;
  const int64_t blocks = (count + 255) / 256;
  launch(round_rows, dim3(static_cast<unsigned>(blocks < 4096 ? blocks : 4096)), dim3(256), 0, stream, reinterpret_cast<const uint4*>(x), global_scale, reinterpret_cast<uint4*>(out), count);
}
}  // namespace nibble::cuda
