// Random weights, made from the config alone.
//
// Values need to be healthy, not normal: each is a few random bits under a fixed range of exponents, so that a word of memory costs one
// multiplication chain and the speed is that of fresh pages. A matrix with K inputs has root mean square near 1 / sqrt(K).
#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <fstream>

#include "base/error.h"
#include "base/hash.h"
#include "base/number_formats.h"
#include "base/thread_pool.h"
#include "model/weight_source.h"

namespace nibble {
namespace {
// A finalizer of splitmix64: a bijection with well mixed bits.
uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

// Words of (random & mask) + offset, lane by lane: the caller's choice of the two keeps sums from carrying into the next lane.
struct Pattern {
  uint64_t mask, offset;
};

// Sign, seven mantissa bits and the low exponent bit are random: +-[1, 4) * 2^e, whose root mean square is 2.41 * 2^e.
Pattern bf16_pattern(float rms) {
  const int e = static_cast<int>(std::lround(std::log2(rms / 2.41f)));
  const uint64_t exponent = static_cast<uint64_t>(std::clamp(127 + e, 1, 250));
  return {0x80FF80FF80FF80FFu, (exponent << 7) * 0x0001000100010001u};
}
constexpr Pattern kE2m1Codes{~0ull, 0};  // all 16 codes: root mean square 2.93
constexpr float kE2m1Rms = 2.93f;
constexpr Pattern kBlockScales{0x0707070707070707u, 0x7474747474747474u};  // 192 ... 352: root mean square 266
constexpr float kBlockScaleRms = 266.0f;
constexpr Pattern kE4m3Codes{0x9F9F9F9F9F9F9F9Fu, 0x3030303030303030u};  // +-[0.5, 8): root mean square 3.5
constexpr float kE4m3Rms = 3.5f;

constexpr int64_t kWordsPerPart = 1 << 18;  // 2 MiB, a huge page

int64_t available_bytes() {
  std::ifstream file("/proc/meminfo");
  std::string key;
  int64_t kib = 0;
  for (std::string rest; file >> key >> kib; std::getline(file, rest)) {
    if (key == "MemAvailable:") return kib * 1024;
  }
  return std::numeric_limits<int64_t>::max();
}
}  // namespace

class DummySource final : public WeightSource {
 public:
  DummySource(const QuantConfig& quant, uint64_t seed, ModelWeights& weights) : quant_(quant), seed_(seed), weights_(weights), pool_(0) {}

  Tensor plain(const std::string& name, const Shape& shape) override {
    const bool vector = shape.rank == 1;
    if (!vector) {
      const float rms = 1.0f / std::sqrt(static_cast<float>(shape[shape.rank - 1]));
      return random(name, DType::bf16, shape, bf16_pattern(rms));
    }
    // Norms scale by about 1; those of q and k so that attention scores, which are not divided by sqrt(head_dim), are about 1 as well.
    const bool bias = name.ends_with(".bias"), of_head = name.ends_with(".q_norm.weight") || name.ends_with(".k_norm.weight");
    const float centre = bias ? 0.0f : of_head ? std::pow(static_cast<float>(shape[0]), -0.25f) : 1.0f;
    const float width = bias ? 0.02f : name.ends_with(".layer_scalar") ? 0.0f : 0.1f * centre;
    const Tensor tensor = random(name, DType::bf16, shape, {~0ull, 0});
    for (int64_t i = 0; i < tensor.count(); ++i) {
      bf16& value = tensor.as<bf16>()[i];
      value = to_bf16(centre + width * (static_cast<float>(value.bits) * 0x1p-15f - 1.0f));
    }
    return tensor;
  }

  LinearWeight linear(const std::string& module, int64_t n, int64_t k) override {
    const std::string name = module + ".weight";
    if (!is_meant_quantized(quant_, module, k)) return Bf16Weight{plain(name, {n, k})};
    const float rms = 1.0f / std::sqrt(static_cast<float>(k));
    if (quant_.algo == QuantAlgo::nvfp4) {
      return Nvfp4Weight{.codes = random(name, DType::u8, {n, k / 2}, kE2m1Codes),
                         .block_scales = random(name + "_scale", DType::e4m3, {n, k / kNvfp4Block}, kBlockScales),
                         .tensor_scale = rms / (kE2m1Rms * kBlockScaleRms),
                         .input_scale = 16.0f / 2688.0f};
    }
    Fp8BlockWeight weight{.codes = random(name, DType::e4m3, {n, k}, kE4m3Codes),
                          .scales = allocate(DType::f32, {(n + kFp8Block - 1) / kFp8Block, (k + kFp8Block - 1) / kFp8Block})};
    std::fill_n(weight.scales.as<float>(), weight.scales.count(), rms / kE4m3Rms);
    return weight;
  }

 private:
  Tensor allocate(DType dtype, const Shape& shape) {
    const int64_t bytes = shape.count() * size_of(dtype);
    const size_t align = bytes >= kWordsPerPart * 8 ? size_t{2} << 20 : 64;
    const size_t rounded = (static_cast<size_t>(bytes) + align - 1) / align * align;
    HostMemory memory(static_cast<std::byte*>(std::aligned_alloc(align, std::max(rounded, align))));
    if (!memory) raise(ErrorCode::out_of_memory, "--load-format dummy: cannot allocate {} bytes; a smaller model or a quantized config needs less", bytes);
    if (align > 64) ::madvise(memory.get(), rounded, MADV_HUGEPAGE);  // a hint; without it fresh pages cost twice as much
    weights_.owned_.push_back(std::move(memory));
    return {weights_.owned_.back().get(), dtype, shape};
  }

  Tensor random(const std::string& name, DType dtype, const Shape& shape, Pattern pattern) {
    const Tensor tensor = allocate(dtype, shape);
    uint64_t* words = tensor.as<uint64_t>();  // memory is rounded up to whole words
    const int64_t num_words = (tensor.bytes() + 7) / 8;
    const Hash128 key = hash_bytes(std::as_bytes(std::span(name)), {.low = seed_, .high = 0});
    pool_.run((num_words + kWordsPerPart - 1) / kWordsPerPart, [&](int64_t part) {
      const int64_t begin = part * kWordsPerPart, end = std::min(begin + kWordsPerPart, num_words);
      for (int64_t i = begin; i < end; ++i) words[i] = (mix(key.low + static_cast<uint64_t>(i) * 0x9E3779B97F4A7C15u) & pattern.mask) + pattern.offset;
    });
    return tensor;
  }

  const QuantConfig& quant_;
  uint64_t seed_;
  ModelWeights& weights_;
  ThreadPool pool_;
};

ModelWeights ModelWeights::dummy(const ModelConfig& config, const QuantConfig& quant, uint64_t seed) {
  int64_t bytes = 0;
  for (const WeightGroup& group : weight_groups(outline(config, quant))) bytes += group.bytes;
  if (const int64_t free = available_bytes(); bytes > free) {
    raise(ErrorCode::out_of_memory, "--load-format dummy: the weights take {:.1f} GB, {:.1f} GB are free; a quantized config.json needs less",
          static_cast<double>(bytes) / 1e9, static_cast<double>(free) / 1e9);
  }
  ModelWeights weights;
  DummySource source(quant, seed, weights);
  assemble_weights(config, source, weights);
  return weights;
}

AssistantWeights AssistantWeights::dummy(const AssistantConfig& config, uint64_t seed) {
  AssistantWeights weights;
  const QuantConfig plain;
  DummySource source(plain, seed, weights.decoder);
  assemble_assistant(config, source, weights);
  return weights;
}
}  // namespace nibble
