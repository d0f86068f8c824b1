// Bytes of BF16 weights per second and core. items_per_second x 2 is the input rate.
#include <benchmark/benchmark.h>

#include <random>
#include <vector>

#include "base/number_formats.h"
#include "base/thread_pool.h"
#include "kernels/quantize_weights.h"

namespace nibble {
namespace {
constexpr int64_t kRows = 512, kCols = 3840;

std::vector<uint16_t> weights() {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0.0f, 0.02f);
  std::vector<uint16_t> w(kRows * kCols);
  for (auto& x : w) x = to_bf16(normal(random)).bits;
  return w;
}

void nvfp4(benchmark::State& state, ScaleSearch search) {
  std::vector<uint16_t> w = weights();
  std::vector<uint8_t> codes(w.size() / 2), scales(w.size() / 16);
  ThreadPool threads(1);
  const Tensor weight{w.data(), DType::bf16, {kRows, kCols}};
  const float amax = cpu::largest_magnitude(weight, threads);
  for (auto _ : state) {
    cpu::quantize_nvfp4({weight, amax, search, {codes.data(), DType::u8, {kRows, kCols / 2}}, {scales.data(), DType::e4m3, {kRows, kCols / 16}}}, threads);
    benchmark::DoNotOptimize(codes.data());
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations()) * weight.bytes());
}

void fp8(benchmark::State& state, ScaleSearch search) {
  std::vector<uint16_t> w = weights();
  std::vector<uint8_t> codes(w.size());
  std::vector<float> scales(kRows / 128 * kCols / 128);
  ThreadPool threads(1);
  const Tensor weight{w.data(), DType::bf16, {kRows, kCols}};
  for (auto _ : state) {
    cpu::quantize_fp8({weight, search, {codes.data(), DType::e4m3, {kRows, kCols}}, {scales.data(), DType::f32, {kRows / 128, 1, kCols / 128, 1}}}, threads);
    benchmark::DoNotOptimize(codes.data());
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations()) * weight.bytes());
}

BENCHMARK_CAPTURE(nvfp4, max, ScaleSearch::max)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(nvfp4, mse, ScaleSearch::mse)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(fp8, max, ScaleSearch::max)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(fp8, mse, ScaleSearch::mse)->Unit(benchmark::kMillisecond);
}  // namespace
}  // namespace nibble
