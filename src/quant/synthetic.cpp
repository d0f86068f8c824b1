#include "quant/synthetic.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <mutex>
#include <optional>

#include "base/error.h"
#include "base/file_io.h"
#include "base/number_formats.h"
#include "base/thread_pool.h"
#include "formats/model_config.h"
#include "model/weight_source.h"
#include "quant/shard_writer.h"

namespace nibble {
namespace {
namespace fs = std::filesystem;

// Names and shapes, in the order in which the model asks for them.
class Listing final : public WeightSource {
 public:
  std::vector<PlannedTensor> tensors;
  Tensor plain(const std::string& name, const Shape& shape) override {
    tensors.push_back({"model." + name, DType::bf16, shape});
    return {};
  }
  LinearWeight linear(const std::string& module, int64_t out_features, int64_t in_features) override {
    plain(module + ".weight", {out_features, in_features});
    return Bf16Weight{};
  }
};

// The inverse of the normal distribution's function at 1/2 + p, p in (0, 1/2), by bisection: used for a table, once.
double normal_quantile(double p) {
  double low = 0, high = 6;
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    (0.5 * std::erf(middle / std::sqrt(2.0)) < p ? low : high) = middle;
  }
  return (low + high) / 2;
}

uint64_t mix(uint64_t x) {  // splitmix64
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// 16 random bits to a value: magnitudes at 32,768 equally likely points, none of them 0.
class Normal {
 public:
  Normal() : quantiles_(32768) {
    for (size_t i = 0; i < quantiles_.size(); ++i) quantiles_[i] = static_cast<float>(normal_quantile((static_cast<double>(i) + 0.5) / 65536));
  }
  std::vector<uint16_t> table(float size) const {
    std::vector<uint16_t> out(65536);
    for (size_t i = 0; i < quantiles_.size(); ++i) {
      out[i] = to_bf16(quantiles_[i] * size).bits;
      out[i + 32768] = to_bf16(-quantiles_[i] * size).bits;
    }
    return out;
  }

 private:
  std::vector<float> quantiles_;
};

void fill(const PlannedTensor& tensor, uint64_t seed, const Normal& normal, std::vector<uint16_t>& out) {
  const auto count = static_cast<size_t>(tensor.shape.count());
  out.resize(count);
  // Norms and the layers' scalars are near one, matrices keep the size of what they multiply.
  const bool matrix = tensor.shape.rank >= 2;
  if (!matrix) {
    for (size_t i = 0; i < count; ++i) out[i] = to_bf16(1.0f + static_cast<float>(mix(seed + i) >> 40) * 0x1p-26f).bits;
    return;
  }
  const bool embed = tensor.name.ends_with("embed_tokens.weight");
  const std::vector<uint16_t> table = normal.table(embed ? 0.02f : 1.0f / std::sqrt(static_cast<float>(tensor.shape[tensor.shape.rank - 1])));
  for (size_t i = 0; i < count; i += 4) {
    uint64_t bits = mix(seed + i);
    for (size_t j = i; j < std::min(i + 4, count); ++j, bits >>= 16) out[j] = table[bits & 0xffff];
  }
}
}  // namespace

int64_t write_synthetic_checkpoint(const SyntheticOptions& options) {
  const std::string config_json = read_config_json(options.source);
  const ModelConfig config = parse_model_config(config_json, (options.source / "config.json").string());
  if (fs::exists(options.target)) raise(ErrorCode::invalid_argument, "{}: exists; name a new folder", options.target.string());
  Listing listing;
  ModelWeights unused;
  assemble_weights(config, listing, unused);

  const fs::path partial = options.target.string() + ".partial";
  fs::remove_all(partial);
  fs::create_directories(partial);
  ShardWriter writer(partial, listing.tensors, options.max_shard_bytes);
  const auto available = static_cast<int64_t>(fs::space(partial).available);
  if (writer.total_bytes() > available) {
    fs::remove_all(partial);
    raise(ErrorCode::out_of_memory, "{}: {:.2f} GB are wanted on the disk, {:.2f} GB are free", options.target.string(), static_cast<double>(writer.total_bytes()) / 1e9, static_cast<double>(available) / 1e9);
  }
  writer.open();

  // Large tensors first, so that the threads end together.
  std::vector<size_t> order(listing.tensors.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return listing.tensors[a].bytes() > listing.tensors[b].bytes(); });
  const Normal normal;
  ThreadPool threads(options.threads);
  std::mutex mutex;
  std::optional<Error> failure;
  std::atomic<bool> failed{false};
  threads.run(static_cast<int64_t>(order.size()), [&](int64_t part) {
    if (failed) return;
    const size_t i = order[static_cast<size_t>(part)];
    static thread_local std::vector<uint16_t> values;
    try {
      fill(listing.tensors[i], mix(options.seed) ^ mix(i) << 1, normal, values);
      writer.write(listing.tensors[i].name, values.data(), listing.tensors[i].bytes());
    } catch (const Error& error) {
      const std::lock_guard lock(mutex);
      failure = error;
      failed = true;
    }
  });
  if (failure) {
    fs::remove_all(partial);
    throw *failure;
  }
  writer.write_index();
  write_file(partial / "config.json", config_json);
  for (const auto& entry : fs::directory_iterator(options.source)) {
    const std::string name = entry.path().filename().string();
    if (entry.is_regular_file() && name != "config.json" && (name.ends_with(".json") || name.ends_with(".jinja")) && !name.ends_with(".index.json")) fs::copy_file(entry.path(), partial / name);
  }
  fs::rename(partial, options.target);
  return writer.total_bytes();
}
}  // namespace nibble
