#include "app/bench_ops.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>
#include <vector>

#include "app/bench_attention.h"
#include "app/bench_timer.h"
#include "app/machine.h"
#include "app/version.h"
#include "base/clock.h"
#include "base/file_io.h"
#include "base/rng.h"
#include "kernels/backend.h"

namespace nibble {
namespace {
using Json = nlohmann::ordered_json;

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
// An op's time, and its rates over the roofs.
struct OpTime {
  double seconds = 0, of_bandwidth = 0, of_peak = 0;
  double read_roof = 0, bf16_roof = 0;  // the roofs that it was held against
  size_t calls = 0;
};

// An op's rates against the roofs just before and after each call.
class Shares {
 public:
  void add(double rate, double before, double after) {
    const double roof = (before + after) / 2;
    all_.push_back({roof > 0 ? rate / roof : 0.0, roof});
    if (std::fabs(before - after) <= 0.1 * roof) steady_.push_back(all_.back());
  }
  // Medians over the calls at which the roof held still within 10 %; over all calls where there are few of those.
  std::pair<double, double> share_and_roof() const {
    std::vector<double> shares, roofs;
    for (const auto& [share, roof] : steady_.size() >= 9 ? steady_ : all_) shares.push_back(share), roofs.push_back(roof);
    return {median_of(std::move(shares)), median_of(std::move(roofs))};
  }

 private:
  std::vector<std::pair<double, double>> all_, steady_;
};

// Roofs that change while the op runs, since neighbours use the same memory, are measured before and after each call, over as many bytes and as much time as the
// call takes (up to 20 ms of arithmetic). Where they stand still they are `still`.
template <typename Call>
OpTime time_op(Backend& backend, const Backend::Roofs& still, double seconds, int64_t bytes, double flops, const Call& call) {
  double began = monotonic_seconds();
  call();
  std::optional<Backend::Roofs> before = backend.roofs_now(bytes, std::min(monotonic_seconds() - began, 0.02));
  if (!before) {
    const double median = median_seconds(seconds, call);
    const auto share = [](double rate, double roof) { return roof > 0 ? rate / roof : 0.0; };
    return {median, share(static_cast<double>(bytes) / median, still.read_bytes_per_second), share(flops / median, still.bf16_flops), still.read_bytes_per_second, still.bf16_flops, 0};
  }
  std::vector<double> times;
  Shares of_bandwidth, of_peak;
  for (const double start = monotonic_seconds(); monotonic_seconds() - start < 2 * seconds || times.size() < 9;) {
    began = monotonic_seconds();
    call();
    const double time = monotonic_seconds() - began;
    const Backend::Roofs after = *backend.roofs_now(bytes, std::min(time, 0.02));
    of_bandwidth.add(static_cast<double>(bytes) / time, before->read_bytes_per_second, after.read_bytes_per_second);
    of_peak.add(flops / time, before->bf16_flops, after.bf16_flops);
    times.push_back(time);
    before = after;
  }
  const size_t calls = times.size();
  const auto [bandwidth_share, read_roof] = of_bandwidth.share_and_roof();
  const auto [peak_share, bf16_roof] = of_peak.share_and_roof();
  return {median_of(std::move(times)), bandwidth_share, peak_share, read_roof, bf16_roof, calls};
}
}  // namespace

struct Job {
  std::string name;
  std::vector<std::pair<int64_t, int64_t>> weights;  // [N, K]
  bool gated = false;
};

// The layers of the 12B model. On a CPU the two shapes of its MLP say enough.
std::vector<Job> jobs_on(bool gpu) {
  std::vector<Job> jobs;
  if (!gpu) {
    jobs.push_back({"up 15360 x 3840", {{15360, 3840}}});
    jobs.push_back({"down 3840 x 15360", {{3840, 15360}}});
    return jobs;
  }
  jobs.push_back({"gate+up gelu 15360 x 3840", {{15360, 3840}, {15360, 3840}}, true});
  jobs.push_back({"down 3840 x 15360", {{3840, 15360}}});
  jobs.push_back({"qkv 8192 x 3840", {{4096, 3840}, {2048, 3840}, {2048, 3840}}});
  jobs.push_back({"o 3840 x 4096", {{3840, 4096}}});
  jobs.push_back({"head 262144 x 3840", {{262144, 3840}}});
  return jobs;
}

int run_bench_ops(const BenchOpsFlags& flags) {
  const std::unique_ptr<Backend> backend = flags.device == "cpu" ? make_cpu_backend({.num_threads = flags.threads}) : make_cuda_backend({.max_rows = 2048, .record = false});
  const bool gpu = !backend->on_host();
  const Backend::Roofs roofs = backend->measure_roofs();
  const double bandwidth = roofs.read_bytes_per_second, peak = roofs.bf16_flops;
  fmt::print("{} | {} | reads {:.1f} GB/s | bf16 products, operands at hand {:.2f} TFLOP/s\n\n", gpu ? gpu_state() : machine_name(), backend->description(), bandwidth / 1e9, peak / 1e12);
  fmt::print("{:<8} {:<28} {:>5} {:>10} {:>8} {:>7} {:>9} {:>7}\n", "format", "op", "rows", "us", "GB/s", "% roof", "TFLOP/s", "% peak");
  const std::vector<Job> jobs = jobs_on(gpu);
  std::vector<int64_t> row_counts{1, 2, 4, 8, 16, 128};
  if (gpu) row_counts = {1, 6, 8, 16, 32, 64, 128, 512, 2048};
  Json rows_json = Json::array();
  const auto report = [&](const std::string& op, const std::string& format, int64_t rows, const OpTime& time, int64_t bytes, double flops_of_op) {
    const double bytes_per_second = static_cast<double>(bytes) / time.seconds, flops = flops_of_op / time.seconds;
    fmt::print("{:<8} {:<28} {:>5} {:>10.1f} {:>8.1f} {:>6.1f}% {:>9.2f} {:>6.1f}%\n", format, op, rows, time.seconds * 1e6, bytes_per_second / 1e9, 100 * time.of_bandwidth, flops / 1e12, 100 * time.of_peak);
    std::fflush(stdout);
    rows_json.push_back({{"op", op}, {"format", format}, {"rows", rows}, {"us", time.seconds * 1e6}, {"bytes", bytes}, {"bytes_per_second", bytes_per_second}, {"of_bandwidth", time.of_bandwidth},
                         {"flops", flops}, {"of_peak", time.of_peak}});
    if (time.calls > 0) rows_json.back().update({{"read_roof", time.read_roof}, {"bf16_roof", time.bf16_roof}, {"calls", time.calls}});
  };
  if (gpu && flags.ops != "linear") {
    bench_attention(flags.seconds, [&](const AttentionTime& t) {
      const double bytes_per_second = static_cast<double>(t.bytes) / t.seconds;
      report(t.op, t.format, t.rows, {t.seconds, bytes_per_second / bandwidth, peak > 0 ? t.flops / t.seconds / peak : 0.0, bandwidth, peak, 0}, t.bytes, t.flops);
    });
  }
  for (const std::string format : {"bf16", "fp8", "nvfp4"}) {
    if (flags.ops == "attention") break;
    for (const Job& job : jobs) {
      const bool head = job.weights[0].first > 100000;
      if (head && format != "bf16") continue;  // the checkpoints leave it in BF16
      // Several copies, so that no call finds its weight in a cache: the next call with the same one comes after 300 MB of others (and, on a CPU, as many bytes of the roof).
      int64_t stored = 0, values = 0;
      const OwnedWeight sample(format, 128, job.weights[0].second, 0);
      for (const auto& [n, k] : job.weights) stored += stored_bytes(sample.weight) * n / 128, values += n * k;
      const size_t copies = static_cast<size_t>(std::max<int64_t>(2, (int64_t{300} << 20) / stored));
      std::vector<std::vector<std::unique_ptr<PreparedLinear>>> packed(copies);
      uint32_t seed = 0;
      std::vector<std::unique_ptr<OwnedWeight>> owned;
      for (const auto& [n, k] : job.weights) owned.push_back(std::make_unique<OwnedWeight>(format, n, k, ++seed));
      for (auto& copy : packed) {
        for (const auto& weight : owned) copy.push_back(backend->prepare_linear(weight->weight, ActivationQuant::none));
      }
      for (const int64_t rows : row_counts) {
        if (head && rows > 64) continue;
        const int64_t k = job.weights[0].second;
        std::vector<uint16_t> x(static_cast<size_t>(rows * k));
        for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<uint16_t>(0x3f00 | (philox4x32({static_cast<uint32_t>(i), 0, 0, 0}, 2)[0] & 0x80ff));
        const Tensor input = backend->allocate(DType::bf16, {rows, k}, "bench");
        backend->upload(x.data(), input);
        std::vector<Tensor> outs;
        for (const auto& [n, unused] : job.weights) outs.push_back(backend->allocate(job.gated ? DType::bf16 : DType::f32, {rows, n}, "bench"));
        const Tensor first_value{outs[0].data, outs[0].dtype, {1}};
        size_t turn = 0;
        // A GPU gets many calls at a time: it works through them without waiting for the host.
        const int calls = gpu ? 32 : 1;
        const double flops = 2.0 * static_cast<double>(rows * values);
        OpTime time = time_op(*backend, roofs, flags.seconds, stored * calls, flops * calls, [&] {
          for (int c = 0; c < calls; ++c) {
            const auto& weights = packed[turn++ % copies];
            std::vector<Backend::LinearJob> parts;
            for (size_t i = 0; i < weights.size(); ++i) parts.push_back({weights[i].get(), outs[i]});
            if (job.gated) {
              backend->gated_linear(*weights[0], *weights[1], input, Tensor(), Tensor(), outs[0]);
            } else {
              backend->linear_group(parts, input);
            }
          }
          uint32_t sink = 0;
          if (gpu) backend->download(first_value, &sink);
        });
        time.seconds /= calls;
        report(job.name, format, rows, time, stored, flops);
      }
    }
  }
  if (!flags.out.empty()) {
    std::filesystem::create_directories(flags.out);
    const Json report = {{"command", "nibble bench ops"}, {"version", kVersion}, {"machine", machine_name()}, {"backend", backend->description()}, {"gpu", gpu_state()},
                         {"unix_seconds", unix_seconds()}, {"read_bandwidth", bandwidth}, {"bf16_peak", peak}, {"rows", rows_json}};
    const auto path = std::filesystem::path(flags.out) / (gpu ? "cuda_ops.json" : "cpu_ops.json");
    write_file(path, report.dump(1) + "\n");
    fmt::print("\nwritten: {}\n", path.string());
  }
  return 0;
}
}  // namespace nibble
