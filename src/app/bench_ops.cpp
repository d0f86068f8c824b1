#include "app/bench_ops.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "app/machine.h"
#include "app/version.h"
#include "base/clock.h"
#include "base/file_io.h"
#include "base/rng.h"
#include "base/thread_pool.h"
#include "kernels/cpu/cpu_features.h"
#include "kernels/cpu/packed_linear.h"
#include "kernels/cpu/roofs.h"

namespace nibble {
namespace {
using Json = nlohmann::ordered_json;

// The median time of one call, over at least `seconds`.
template <typename Call>
double median_seconds(double seconds, const Call& call) {
  call();
  std::vector<double> times;
  for (const double began = monotonic_seconds(); monotonic_seconds() - began < seconds || times.size() < 3;) {
    const double t = monotonic_seconds();
    call();
    times.push_back(monotonic_seconds() - t);
  }
  std::nth_element(times.begin(), times.begin() + static_cast<int64_t>(times.size() / 2), times.end());
  return times[times.size() / 2];
}

// A random weight of one format, with its memory.
struct OwnedWeight {
  std::vector<uint8_t> codes, block_scales;
  std::vector<uint16_t> plain;
  std::vector<float> scales;
  LinearWeight weight;

  OwnedWeight(const std::string& format, int64_t n, int64_t k, uint32_t seed) {
    const auto fill = [&](std::vector<uint8_t>& bytes, int64_t count, uint8_t mask) {
      bytes.resize(static_cast<size_t>(count));
      for (int64_t i = 0; i < count; i += 16) {
        const PhiloxCounter r = philox4x32({static_cast<uint32_t>(i), static_cast<uint32_t>(i >> 32), seed, 0}, 1);
        for (int64_t j = i; j < std::min(count, i + 16); ++j) bytes[static_cast<size_t>(j)] = static_cast<uint8_t>(r[static_cast<size_t>(j - i) / 4] >> (j % 4 * 8)) & mask;
      }
    };
    if (format == "bf16") {
      fill(codes, n * k * 2, 0xff);
      plain.resize(static_cast<size_t>(n * k));
      for (size_t i = 0; i < plain.size(); ++i) plain[i] = static_cast<uint16_t>(0x3c00 | (codes[2 * i] << 8 & 0x8300) | codes[2 * i + 1]);  // finite, near 0.01
      weight = Bf16Weight{{plain.data(), DType::bf16, {n, k}}};
    } else if (format == "nvfp4") {
      fill(codes, n * k / 2, 0xff);
      fill(block_scales, n * k / 16, 0x3f);
      weight = Nvfp4Weight{{codes.data(), DType::u8, {n, k / 2}}, {block_scales.data(), DType::e4m3, {n, k / 16}}, 0.01f, 0.0f};
    } else {
      fill(codes, n * k, 0xbf);
      scales.assign(static_cast<size_t>((n + 127) / 128 * ((k + 127) / 128)), 0.01f);
      weight = Fp8BlockWeight{{codes.data(), DType::e4m3, {n, k}}, {scales.data(), DType::f32, {(n + 127) / 128, (k + 127) / 128}}};
    }
  }
};
}  // namespace

int run_bench_ops(const BenchOpsFlags& flags) {
  ThreadPool threads(flags.threads);
  const double bandwidth = cpu::measure_read_bandwidth(threads), peak = cpu::measure_bf16_peak(threads);
  fmt::print("{} | {} threads | {} | reads {:.1f} GB/s | bf16 dot, registers only {:.0f} GFLOP/s\n\n", machine_name(), threads.size(), cpu::name_of(cpu::active_isa()), bandwidth / 1e9, peak / 1e9);
  fmt::print("{:<8} {:>7} x {:<7} {:>5} {:>10} {:>8} {:>7} {:>9} {:>7}\n", "format", "N", "K", "rows", "us", "GB/s", "% roof", "GFLOP/s", "% peak");
  Json rows_json = Json::array();
  struct Shape {
    int64_t n, k;
  };
  for (const std::string format : {"bf16", "fp8", "nvfp4"}) {
    for (const Shape shape : {Shape{15360, 3840}, Shape{3840, 15360}}) {
      // Several copies, so that no call finds its weight in a cache.
      std::vector<std::unique_ptr<PreparedLinear>> packed;
      int64_t stored = 0;
      for (uint32_t copy = 0; copy < 4; ++copy) {
        const OwnedWeight owned(format, shape.n, shape.k, copy);
        stored = stored_bytes(owned.weight);
        packed.push_back(cpu::pack_linear(owned.weight, ActivationQuant::none, threads));
      }
      for (const int64_t rows : {1, 2, 4, 8, 16, 128}) {
        std::vector<uint16_t> x(static_cast<size_t>(rows * shape.k));
        for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<uint16_t>(0x3f00 | (philox4x32({static_cast<uint32_t>(i), 0, 0, 0}, 2)[0] & 0x80ff));
        std::vector<float> out(static_cast<size_t>(rows * shape.n));
        size_t turn = 0;
        const double seconds = median_seconds(flags.seconds, [&] {
          cpu::run_linear(*packed[turn++ % packed.size()], {x.data(), DType::bf16, {rows, shape.k}}, {out.data(), DType::f32, {rows, shape.n}}, threads);
        });
        const double bytes_per_second = static_cast<double>(stored) / seconds, flops = 2.0 * static_cast<double>(rows * shape.n * shape.k) / seconds;
        fmt::print("{:<8} {:>7} x {:<7} {:>5} {:>10.1f} {:>8.1f} {:>6.1f}% {:>9.1f} {:>6.1f}%\n", format, shape.n, shape.k, rows, seconds * 1e6, bytes_per_second / 1e9, 100 * bytes_per_second / bandwidth,
                   flops / 1e9, peak > 0 ? 100 * flops / peak : 0.0);
        std::fflush(stdout);
        rows_json.push_back({{"op", "linear"}, {"format", format}, {"n", shape.n}, {"k", shape.k}, {"rows", rows}, {"us", seconds * 1e6}, {"bytes", stored}, {"bytes_per_second", bytes_per_second},
                             {"of_bandwidth", bytes_per_second / bandwidth}, {"flops", flops}, {"of_peak", peak > 0 ? flops / peak : 0.0}});
      }
    }
  }
  if (!flags.out.empty()) {
    std::filesystem::create_directories(flags.out);
    const Json report = {{"command", "nibble bench ops"}, {"version", kVersion}, {"machine", machine_name()}, {"threads", threads.size()}, {"isa", cpu::name_of(cpu::active_isa())},
                         {"unix_seconds", unix_seconds()}, {"read_bandwidth", bandwidth}, {"bf16_peak", peak}, {"rows", rows_json}};
    const auto path = std::filesystem::path(flags.out) / "cpu_ops.json";
    write_file(path, report.dump(1) + "\n");
    fmt::print("\nwritten: {}\n", path.string());
  }
  return 0;
}
}  // namespace nibble
