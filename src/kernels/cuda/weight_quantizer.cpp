#include <algorithm>
#include <cstring>
#include <vector>

#include "base/assert.h"
#include "base/error.h"
#include "kernels/cuda/quantize_weights.h"
#include "kernels/linear.h"

namespace nibble::cuda {
namespace {
constexpr int64_t kPartBytes = int64_t{32} << 20;  // of weights on their way

void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) raise(status == cudaErrorMemoryAllocation ? ErrorCode::out_of_memory : ErrorCode::internal, "{}: {}", what, cudaGetErrorString(status));
}

// Pinned memory and device memory of one size, grown when needed.
struct Pair {
  void *host = nullptr, *device = nullptr;
  int64_t bytes = 0;
  void reserve(int64_t wanted) {
    if (wanted <= bytes) return;
    release();
    check(cudaHostAlloc(&host, static_cast<size_t>(wanted), cudaHostAllocDefault), "pinned memory of the quantizer");
    check(cudaMalloc(&device, static_cast<size_t>(wanted)), "device memory of the quantizer");
    bytes = wanted;
  }
  void release() {
    if (host) cudaFreeHost(host);
    if (device) cudaFree(device);
    host = device = nullptr;
    bytes = 0;
  }
};
}  // namespace

struct WeightQuantizer::Turn {
  cudaStream_t stream = nullptr;
  Pair weights, codes, scales, errors;
  // What is on its way.
  bool pending = false;
  void *codes_to = nullptr, *scales_to = nullptr;
  int64_t code_bytes = 0, scale_bytes = 0, num_errors = 0;

  void begin(const void* from, int64_t bytes, int64_t new_code_bytes, int64_t new_scale_bytes, int64_t new_num_errors) {
    code_bytes = new_code_bytes;
    scale_bytes = new_scale_bytes;
    num_errors = new_num_errors;
    weights.reserve(bytes);
    codes.reserve(code_bytes);
    scales.reserve(scale_bytes);
    errors.reserve(num_errors * static_cast<int64_t>(sizeof(QuantError)));
    std::memcpy(weights.host, from, static_cast<size_t>(bytes));
    check(cudaMemcpyAsync(weights.device, weights.host, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, stream), "weights to the device");
  }
  void end(void* new_codes_to, void* new_scales_to) {
    check(cudaGetLastError(), "quantizing on the device");
    codes_to = new_codes_to;
    scales_to = new_scales_to;
    for (const auto& [pair, bytes] : {std::pair(&codes, code_bytes), std::pair(&scales, scale_bytes), std::pair(&errors, num_errors * static_cast<int64_t>(sizeof(QuantError)))}) {
      check(cudaMemcpyAsync(pair->host, pair->device, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, stream), "codes from the device");
    }
    pending = true;
  }
  void finish(QuantError& total) {
    if (!pending) return;
    check(cudaStreamSynchronize(stream), "quantizing on the device");
    pending = false;
    std::memcpy(codes_to, codes.host, static_cast<size_t>(code_bytes));
    std::memcpy(scales_to, scales.host, static_cast<size_t>(scale_bytes));
    for (int64_t i = 0; i < num_errors; ++i) total.add(static_cast<const QuantError*>(errors.host)[i]);
  }
};

WeightQuantizer::~WeightQuantizer() {
  for (Turn* turn : turns_) {
    if (!turn) continue;
    cudaStreamSynchronize(turn->stream);
    for (Pair* pair : {&turn->weights, &turn->codes, &turn->scales, &turn->errors}) pair->release();
    cudaStreamDestroy(turn->stream);
    delete turn;
  }
}

WeightQuantizer::Turn& WeightQuantizer::turn(int i) {
  if (!turns_[i]) {
    turns_[i] = new Turn;
    check(cudaStreamCreateWithFlags(&turns_[i]->stream, cudaStreamNonBlocking), "cudaStreamCreate");
  }
  return *turns_[i];
}

QuantError WeightQuantizer::quantize_nvfp4(const QuantizeNvfp4Args& args) {
  const int64_t rows = args.weight.rows(), cols = args.weight.cols(), blocks = cols / kNvfp4Block;
  NB_ASSERT(cols % kNvfp4Block == 0 && args.codes.count() == rows * cols / 2 && args.block_scales.count() == rows * blocks, "NVFP4 shapes do not fit");
  const int64_t part_rows = std::max<int64_t>(1, kPartBytes / (cols * 2));
  QuantError total;
  int i = 0;
  for (int64_t row = 0; row < rows; row += part_rows, i ^= 1) {
    const int64_t n = std::min(part_rows, rows - row);
    Turn& t = turn(i);
    t.finish(total);
    t.begin(args.weight.as<uint16_t>() + row * cols, n * cols * 2, n * cols / 2, n * blocks, n);
    cuda::quantize_nvfp4(static_cast<const __nv_bfloat16*>(t.weights.device), n, cols, args.tensor_amax, args.search, static_cast<uint8_t*>(t.codes.device),
                         static_cast<uint8_t*>(t.scales.device), static_cast<QuantError*>(t.errors.device), t.stream);
    t.end(args.codes.as<uint8_t>() + row * cols / 2, args.block_scales.as<uint8_t>() + row * blocks);
  }
  for (int left = 0; left < 2; ++left, i ^= 1) turn(i).finish(total);
  return total;
}

QuantError WeightQuantizer::quantize_fp8(const QuantizeFp8Args& args) {
  const int64_t rows = args.weight.rows(), cols = args.weight.cols(), block_cols = (cols + kFp8Block - 1) / kFp8Block;
  NB_ASSERT(args.codes.count() == rows * cols && args.scales.count() == (rows + kFp8Block - 1) / kFp8Block * block_cols, "FP8 shapes do not fit");
  const int64_t part_rows = std::max<int64_t>(1, kPartBytes / (cols * 2 * kFp8Block)) * kFp8Block;
  QuantError total;
  int i = 0;
  for (int64_t row = 0; row < rows; row += part_rows, i ^= 1) {
    const int64_t n = std::min(part_rows, rows - row), parts = (n + kFp8Block - 1) / kFp8Block * block_cols;
    Turn& t = turn(i);
    t.finish(total);
    t.begin(args.weight.as<uint16_t>() + row * cols, n * cols * 2, n * cols, parts * 4, parts);
    cuda::quantize_fp8(static_cast<const __nv_bfloat16*>(t.weights.device), n, cols, args.search, static_cast<uint8_t*>(t.codes.device), static_cast<float*>(t.scales.device),
                       static_cast<QuantError*>(t.errors.device), t.stream);
    t.end(args.codes.as<uint8_t>() + row * cols, args.scales.as<float>() + row / kFp8Block * block_cols);
  }
  for (int left = 0; left < 2; ++left, i ^= 1) turn(i).finish(total);
  return total;
}
}  // namespace nibble::cuda
