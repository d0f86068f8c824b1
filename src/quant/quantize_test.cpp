// Whole checkpoints and raw vectors against the reference quantizer's stored results; resuming, refusals, and what is left after a failure.
#include "quant/quantize.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <numeric>

#include "base/error.h"
#include "base/file_io.h"
#include "base/test_paths.h"
#include "base/thread_pool.h"
#include "formats/quant_config.h"
#include "formats/safetensors.h"
#include "model/model.h"
#include "quant/shard_writer.h"

namespace nibble {
namespace {
namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (fs::temp_directory_path() / "nibble-quant-XXXXXX").string();
    path = ::mkdtemp(pattern.data());
  }
  ~TemporaryFolder() { fs::remove_all(path); }
  fs::path path;
};

std::vector<uint8_t> bytes_of(const Tensor& t) {
  const auto* begin = static_cast<const uint8_t*>(t.data);
  return {begin, begin + t.bytes()};
}
std::map<std::string, std::vector<uint8_t>> files_of(const fs::path& folder) {
  std::map<std::string, std::vector<uint8_t>> out;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string text = read_file(entry.path());
    out[entry.path().filename().string()] = {text.begin(), text.end()};
  }
  return out;
}

QuantizeReport quantize(const fs::path& source, const fs::path& target, Recipe recipe, ScaleSearch search, int threads = 2, bool tensor_search = false) {
  return quantize_checkpoint({.source = source, .target = target, .recipe = recipe, .search = search, .tensor_search = tensor_search, .threads = threads, .version = "1.2.3"});
}

// How many blocks of 16 have another scale, or another code, than the reference's.
int64_t different_blocks(const std::vector<uint8_t>& codes, const std::vector<uint8_t>& want_codes, const std::vector<uint8_t>& scales, const std::vector<uint8_t>& want_scales) {
  EXPECT_EQ(codes.size(), want_codes.size());
  EXPECT_EQ(scales.size(), want_scales.size());
  int64_t different = 0;
  for (size_t b = 0; b < scales.size(); ++b) different += scales[b] != want_scales[b] || std::memcmp(codes.data() + b * 8, want_codes.data() + b * 8, 8) != 0;
  return different;
}

// Every block, also those whose two best scales are within 1e-4 of each other (near_tie).
TEST(QuantGoldens, Nvfp4VectorsAreBitExact) {
  const TensorFiles files = TensorFiles::open(test_data("quant/quant_vectors.safetensors"));
  ThreadPool threads(2);
  int64_t blocks = 0, near_ties = 0, different = 0;
  for (const auto& [name, stored] : files.tensors()) {
    const size_t at = name.find(".nvfp4.");
    if (at == std::string::npos || !name.ends_with(".weight")) continue;
    const std::string base = name.substr(0, name.size() - std::string_view(".weight").size());
    for (const auto& [tag, search] : {std::pair(".max", ScaleSearch::max), std::pair(".mse", ScaleSearch::mse)}) {
      const StoredTensor* packed = files.find(base + tag + ".packed");
      if (!packed) continue;
      const Tensor& w = stored.tensor;
      std::vector<uint8_t> codes(static_cast<size_t>(w.count() / 2)), scales(static_cast<size_t>(w.count() / 16));
      const float amax = cpu::largest_magnitude(w, threads), s2 = cpu::nvfp4_tensor_scale(amax);
      cpu::quantize_nvfp4({w, amax, search, {codes.data(), DType::u8, {w.rows(), w.cols() / 2}}, {scales.data(), DType::e4m3, {w.rows(), w.cols() / 16}}}, threads);
      EXPECT_EQ(std::memcmp(&s2, files.find(base + tag + ".scale2")->tensor.data, 4), 0) << base << tag;
      const int64_t here = different_blocks(codes, bytes_of(packed->tensor), scales, bytes_of(files.find(base + tag + ".scale")->tensor));
      EXPECT_EQ(here, 0) << base << tag;
      different += here;
      blocks += static_cast<int64_t>(scales.size());
      if (search != ScaleSearch::mse) continue;
      for (const uint8_t tie : bytes_of(files.find(base + ".mse.near_tie")->tensor)) near_ties += tie;
    }
  }
  EXPECT_GT(blocks, 1000);
  EXPECT_GT(near_ties, 0) << "the vectors are to hold some";
  std::cout << different << " of " << blocks << " blocks differ from the reference; " << near_ties << " are near ties\n";
}

TEST(QuantGoldens, Fp8VectorsAreBitExact) {
  const TensorFiles files = TensorFiles::open(test_data("quant/quant_vectors.safetensors"));
  ThreadPool threads(2);
  int matrices = 0;
  for (const auto& [name, stored] : files.tensors()) {
    if (name.find(".fp8.") == std::string::npos || !name.ends_with(".weight")) continue;
    const std::string base = name.substr(0, name.size() - std::string_view(".weight").size());
    for (const auto& [tag, search] : {std::pair(".max", ScaleSearch::max), std::pair(".mse", ScaleSearch::mse)}) {
      const Tensor &w = stored.tensor, &want_scale = files.find(base + tag + ".scale")->tensor;
      std::vector<uint8_t> codes(static_cast<size_t>(w.count()));
      std::vector<float> scales(static_cast<size_t>(want_scale.count()));
      cpu::quantize_fp8({w, search, {codes.data(), DType::e4m3, w.shape}, {scales.data(), DType::f32, want_scale.shape}}, threads);
      EXPECT_EQ(std::memcmp(scales.data(), want_scale.data, scales.size() * 4), 0) << base << tag;
      EXPECT_EQ(codes, bytes_of(files.find(base + tag + ".q")->tensor)) << base << tag;
      ++matrices;
    }
  }
  EXPECT_GE(matrices, 4);
}

struct Export {
  const char *source, *golden, *hf_quant, *config;  // golden: a folder, or the tensors that differ from the source
  const char* logits;  // the mode's name among the logits of goldens.safetensors
  Recipe recipe;
  ScaleSearch search;
  bool tensor_search = false;
};

class QuantExport : public testing::TestWithParam<Export> {};

bool is_calibrated(const std::string& name) { return name.ends_with(".input_scale") || name.ends_with(".k_scale") || name.ends_with(".v_scale"); }

// All logits of a prompt in float32 from a checkpoint on disk.
std::vector<float> logits_of(const fs::path& folder, ActivationQuant activations, const std::vector<int32_t>& ids) {
  const std::string text = read_file(folder / "config.json");
  const ModelConfig config = parse_model_config(text, folder.string());
  const ModelWeights weights = ModelWeights::load(folder, config, parse_quant_config(text, "", folder.string()));
  const auto backend = make_cpu_backend({.num_threads = 2});
  Gemma4Model model(config, weights, {.activations = DType::f32, .kv_cache = DType::f32, .activation_quant = activations, .num_full_pages = 4, .num_sliding_pages = 4}, *backend);
  const std::vector<int32_t> pages{0, 1, 2, 3};
  std::vector<int32_t> rows(ids.size());
  std::iota(rows.begin(), rows.end(), 0);
  const SequenceSlice slice{0, static_cast<int32_t>(ids.size()), 0, pages, pages};
  std::vector<float> logits(ids.size() * static_cast<size_t>(config.vocab_size));
  model.forward({ids, std::span(&slice, 1), rows, {}}, logits.data());
  return logits;
}

void expect_logits(const std::vector<float>& got, const Tensor& want, float limit, const std::string& what) {
  ASSERT_EQ(got.size(), static_cast<size_t>(want.count())) << what;
  float worst = 0;
  for (size_t i = 0; i < got.size(); ++i) worst = std::max(worst, std::fabs(got[i] - want.as<float>()[i]));
  EXPECT_LT(worst, limit) << what;
}

// The folder that we write, with the scales of the reference's calibration, computes what the reference computes with its own.
TEST_P(QuantExport, ComputesTheReferencesLogits) {
  const Export& e = GetParam();
  const TemporaryFolder folder;
  QuantizeOptions options{.source = test_data(e.source), .target = folder.path / "out", .recipe = e.recipe, .search = e.search, .tensor_search = e.tensor_search, .threads = 2, .version = "1.2.3"};
  const TensorFiles want = TensorFiles::open(test_data(e.golden));
  for (const auto& [name, stored] : want.tensors()) {
    if (is_calibrated(name)) options.scales[name] = *stored.tensor.as<float>();
  }
  quantize_checkpoint(options);
  const TensorFiles got = TensorFiles::open(options.target), goldens = TensorFiles::open(test_data(e.source).parent_path() / "goldens.safetensors");
  for (const auto& [name, stored] : want.tensors()) {
    if (is_calibrated(name)) ASSERT_TRUE(got.find(name) && bytes_of(got.find(name)->tensor) == bytes_of(stored.tensor)) << name;
  }
  const Tensor ids = goldens.find("test_ids")->tensor;
  const std::vector<int32_t> prompt(ids.as<int32_t>(), ids.as<int32_t>() + ids.count());
  const std::string mode = std::string("logits_") + e.logits;
  expect_logits(logits_of(options.target, ActivationQuant::none, prompt), goldens.find(mode + "_weights")->tensor, 1e-3f, mode + "_weights");
  // One activation on a rounding border, rounded the other way, moves logits by some hundredths.
  if (e.recipe == Recipe::nvfp4_mlp_only) expect_logits(logits_of(options.target, ActivationQuant::nvfp4, prompt), goldens.find(mode + "_w4a4")->tensor, 0.03f, mode + "_w4a4");
}

TEST_P(QuantExport, EqualsTheReferenceQuantizersFiles) {
  const Export& e = GetParam();
  const TemporaryFolder folder;
  const QuantizeReport report = quantize(test_data(e.source), folder.path / "out", e.recipe, e.search, 2, e.tensor_search);
  const TensorFiles want = TensorFiles::open(test_data(e.golden)), got = TensorFiles::open(folder.path / "out"), source = TensorFiles::open(test_data(e.source));
  int64_t different = 0, blocks = 0;
  for (const auto& [name, stored] : want.tensors()) {
    if (is_calibrated(name)) continue;
    const StoredTensor* mine = got.find(name);
    ASSERT_TRUE(mine) << name;
    EXPECT_EQ(mine->tensor.dtype, stored.tensor.dtype) << name;
    EXPECT_EQ(mine->tensor.shape, stored.tensor.shape) << name;
    const auto a = bytes_of(mine->tensor), b = bytes_of(stored.tensor);
    EXPECT_EQ(a, b) << name;
    if (stored.tensor.dtype != DType::u8) continue;
    const auto scales = bytes_of(want.find(name + "_scale")->tensor);
    different += different_blocks(a, b, bytes_of(got.find(name + "_scale")->tensor), scales);
    blocks += static_cast<int64_t>(scales.size());
  }
  if (blocks > 0) std::cout << different << " of " << blocks << " NVFP4 blocks differ\n";
  // And nothing that the reference does not have.
  for (const auto& [name, stored] : got.tensors()) EXPECT_TRUE(want.find(name) || source.find(name)) << name;

  Json config = Json::parse(read_file(test_data(e.config)))["quantization_config"], mine = Json::parse(read_file(folder.path / "out/config.json"))["quantization_config"];
  EXPECT_EQ(mine["producer"], (Json{{"name", "nibble"}, {"version", "1.2.3"}}));
  config.erase("producer"), mine.erase("producer");
  EXPECT_EQ(nlohmann::json(config), nlohmann::json(mine));
  EXPECT_EQ(nlohmann::json(Json::parse(read_file(test_data(e.hf_quant)))["quantization"]), nlohmann::json(Json::parse(read_file(folder.path / "out/hf_quant_config.json"))["quantization"]));
  EXPECT_EQ(read_file(folder.path / "out/generation_config.json"), read_file(test_data(e.source) / "generation_config.json"));
  EXPECT_FALSE(fs::exists(folder.path / "out.partial"));

  EXPECT_GT(report.matrices.size(), 10u);
  for (const MatrixReport& m : report.matrices) {
    EXPECT_GT(m.error.error_sq, 0) << m.name;
    if (e.tensor_search) continue;
    if (e.search == ScaleSearch::max) EXPECT_EQ(m.error.error_sq, m.error.max_error_sq) << m.name;
    // The search's s_c and the file's scale * s2 differ in the last bits.
    EXPECT_LE(m.error.error_sq, m.error.max_error_sq * (1 + 1e-6)) << m.name;
  }
}

INSTANTIATE_TEST_SUITE_P(Exports, QuantExport,
                         testing::Values(Export{"quant/seed0/base", "quant/seed0/nvfp4_mse", "quant/seed0/nvfp4_mse/hf_quant_config.json", "quant/seed0/nvfp4_mse/config.json", "nvfp4_mse", Recipe::nvfp4_mlp_only, ScaleSearch::mse},
                                         Export{"quant/seed0/base", "quant/seed0/nvfp4_max.delta.safetensors", "quant/seed0/nvfp4_max.hf_quant_config.json", "quant/seed0/nvfp4_max.config.json", "nvfp4_max", Recipe::nvfp4_mlp_only, ScaleSearch::max},
                                         Export{"quant/seed0/base", "quant/seed0/nvfp4_mse_tensor.delta.safetensors", "quant/seed0/nvfp4_mse_tensor.hf_quant_config.json", "quant/seed0/nvfp4_mse_tensor.config.json", "nvfp4_mse_tensor",
                                                Recipe::nvfp4_mlp_only, ScaleSearch::max, true},
                                         Export{"quant/seed1/base", "quant/seed1/fp8_max", "quant/seed1/fp8_max/hf_quant_config.json", "quant/seed1/fp8_max/config.json", "fp8_max", Recipe::fp8_pb_wo, ScaleSearch::max},
                                         Export{"quant/seed1/base", "quant/seed1/fp8_mse.delta.safetensors", "quant/seed1/fp8_mse.hf_quant_config.json", "quant/seed1/fp8_mse.config.json", "fp8_mse", Recipe::fp8_pb_wo, ScaleSearch::mse}),
                         [](const auto& param) { return fs::path(param.param.hf_quant).parent_path().filename().string() + std::to_string(param.index); });

TEST(Quantize, SameBytesOnAnyNumberOfThreadsAndAfterAnyInterruption) {
  const TemporaryFolder folder;
  const fs::path source = test_data("quant/seed0/base");
  quantize(source, folder.path / "one", Recipe::nvfp4_mlp_only, ScaleSearch::mse, 1);
  const auto want = files_of(folder.path / "one");
  QuantizeOptions options{.source = source, .target = folder.path / "cut", .threads = 3, .version = "1.2.3"};
  // Four runs, each cut a little later than the one before; then a whole one.
  for (int run = 1; run <= 4; ++run) {
    int steps = 0;
    options.progress = [&](const QuantizeProgress&) { return ++steps <= 17 * run; };
    try {
      quantize_checkpoint(options);
      FAIL() << "was to be cut";
    } catch (const Error& error) {
      ASSERT_EQ(error.code, ErrorCode::cancelled) << error.message;
    }
    EXPECT_FALSE(fs::exists(folder.path / "cut"));
    std::ofstream(folder.path / "cut.partial/journal.jsonl", std::ios::app) << "{\"name\": \"mod";  // what a crash leaves
  }
  options.progress = nullptr;
  EXPECT_GT(quantize_checkpoint(options).bytes_resumed, 0);
  EXPECT_EQ(files_of(folder.path / "cut"), want);
}

TEST(Quantize, OtherFlagsStartAnew) {
  const TemporaryFolder folder;
  QuantizeOptions options{.source = test_data("quant/seed0/base"), .target = folder.path / "out", .threads = 1, .version = "1"};
  options.progress = [](const QuantizeProgress& p) { return p.source_bytes_done < p.source_bytes_total / 2; };
  EXPECT_THROW(quantize_checkpoint(options), Error);
  options.progress = nullptr;
  options.search = ScaleSearch::max;
  EXPECT_EQ(quantize_checkpoint(options).bytes_resumed, 0);
}

TEST(Quantize, ShardsWithIndexHoldTheSameTensors) {
  const TemporaryFolder folder;
  quantize(test_data("quant/seed0/base"), folder.path / "one", Recipe::nvfp4_mlp_only, ScaleSearch::max);
  quantize_checkpoint({.source = test_data("quant/seed0/base"), .target = folder.path / "many", .search = ScaleSearch::max, .max_shard_bytes = 120'000, .reexport_names = true, .threads = 1, .version = "1.2.3"});
  const TensorFiles one = TensorFiles::open(folder.path / "one"), many = TensorFiles::open(folder.path / "many");
  const Json index = Json::parse(read_file(folder.path / "many/model.safetensors.index.json"));
  EXPECT_EQ(index["metadata"]["total_size"], one.total_bytes());
  EXPECT_EQ(index["weight_map"].size(), one.tensors().size());
  EXPECT_GE(std::distance(fs::directory_iterator(folder.path / "many"), {}), 6);
  EXPECT_EQ(many.tensors().size(), one.tensors().size());
  EXPECT_TRUE(many.find("model.embed_vision.multimodal_embedder.embedding_projection.weight"));
  EXPECT_TRUE(many.find("model.embed_vision.patch_dense.weight"));
  EXPECT_TRUE(one.find("model.vision_embedder.patch_dense.weight"));
  const std::string name = "model.language_model.layers.3.mlp.down_proj.weight";
  EXPECT_EQ(bytes_of(one.find(name)->tensor), bytes_of(many.find(name)->tensor));
}

TEST(Quantize, NoneIsACopyThatWasChecked) {
  const TemporaryFolder folder;
  quantize(test_data("quant/seed0/base"), folder.path / "out", Recipe::none, ScaleSearch::max);
  const TensorFiles source = TensorFiles::open(test_data("quant/seed0/base")), copy = TensorFiles::open(folder.path / "out");
  ASSERT_EQ(copy.tensors().size(), source.tensors().size());
  for (const auto& [name, stored] : source.tensors()) EXPECT_EQ(bytes_of(stored.tensor), bytes_of(copy.find(name)->tensor)) << name;
  EXPECT_EQ(Json::parse(read_file(folder.path / "out/config.json")), Json::parse(read_file(test_data("quant/seed0/base/config.json"))));
  EXPECT_FALSE(fs::exists(folder.path / "out/hf_quant_config.json"));
}

std::string message_of(const QuantizeOptions& options) {
  try {
    quantize_checkpoint(options);
  } catch (const Error& error) {
    return error.message;
  }
  return "";
}

TEST(Quantize, RefusesWithOneLineAndLeavesNothing) {
  const TemporaryFolder folder;
  const fs::path target = folder.path / "out";
  EXPECT_NE(message_of({.source = test_data("quant/seed0/nvfp4_mse"), .target = target}).find("already quantized"), std::string::npos);

  fs::create_directories(target);
  write_file(target / "mine.txt", "precious");
  EXPECT_NE(message_of({.source = test_data("quant/seed0/base"), .target = target}).find("--force"), std::string::npos);
  EXPECT_TRUE(fs::exists(target / "mine.txt"));
  fs::remove_all(target);

  // A NaN among the weights: the tensor is named, and nothing stays.
  const fs::path bad = folder.path / "bad";
  fs::copy(test_data("quant/seed0/base"), bad);
  const TensorFiles files = TensorFiles::open(bad);
  const std::string name = "model.language_model.layers.4.mlp.up_proj.weight", file = read_file(bad / "model.safetensors");
  uint64_t header_bytes;
  std::memcpy(&header_bytes, file.data(), 8);
  const Json header = Json::parse(file.substr(8, header_bytes));
  std::string broken = file;
  const size_t at = 8 + header_bytes + header[name]["data_offsets"][0].get<size_t>() + 100;
  broken[at] = '\xc0', broken[at + 1] = '\x7f';  // 0x7fc0
  write_file(bad / "model.safetensors", broken);
  EXPECT_NE(message_of({.source = bad, .target = target}).find("layers.4.mlp.up_proj.weight: holds NaN"), std::string::npos) << message_of({.source = bad, .target = target});
  EXPECT_FALSE(fs::exists(target));
  EXPECT_FALSE(fs::exists(target.string() + ".partial"));

  // Cut short.
  write_file(bad / "model.safetensors", file.substr(0, file.size() / 2));
  EXPECT_FALSE(message_of({.source = bad, .target = target}).empty());
  EXPECT_FALSE(fs::exists(target));
  EXPECT_FALSE(fs::exists(target.string() + ".partial"));
}

TEST(ShardWriter, WritesScalarsAndOddSizes) {
  const TemporaryFolder folder;
  ShardWriter writer(folder.path, {{"a", DType::u8, {3}}, {"b", DType::f32, {}}, {"c", DType::bf16, {2, 2}}}, 1000);
  writer.open();
  const float b = 2.5f;
  const uint8_t a[3] = {1, 2, 3}, c[8] = {4, 5, 6, 7, 8, 9, 10, 11};
  writer.write("a", a, 3), writer.write("b", &b, 4), writer.write("c", c, 8);
  writer.sync();
  const TensorFiles files = TensorFiles::open(folder.path);
  EXPECT_EQ(files.find("b")->tensor.shape.rank, 0);
  EXPECT_EQ(*files.find("b")->tensor.as<float>(), 2.5f);
  EXPECT_EQ(bytes_of(files.find("a")->tensor), (std::vector<uint8_t>{1, 2, 3}));
  EXPECT_EQ(bytes_of(files.find("c")->tensor)[7], 11);
}
}  // namespace
}  // namespace nibble
