#include "model/weights.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <functional>

#include "base/error.h"
#include "base/file_io.h"
#include "base/number_formats.h"
#include "base/test_paths.h"

namespace nibble {
namespace {
namespace fs = std::filesystem;

ModelConfig config_of(const std::string& name) { return parse_model_config(read_config_json(test_data(name)), name); }
QuantConfig quant_of(const std::string& name) { return parse_quant_config(read_config_json(test_data(name)), "", name); }
ModelWeights load(const std::string& name) {
  const ModelConfig config = config_of(name);
  return ModelWeights::load(test_data(name), config, quant_of(name));
}

// Row by row through the plain kernel: with a one-hot input every output is one dequantized weight (0 * w adds nothing to a finite sum).
std::vector<float> dequantized(const LinearWeight& weight) {
  const auto [n, k] = shape_of(weight);
  std::vector<float> x(static_cast<size_t>(k * k)), out(static_cast<size_t>(k * n)), rows(static_cast<size_t>(n * k));
  for (int64_t i = 0; i < k; ++i) x[static_cast<size_t>(i * k + i)] = 1.0f;
  cpu::linear_plain({x.data(), DType::f32, {k, k}}, weight, {out.data(), DType::f32, {k, n}});
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = 0; j < n; ++j) rows[static_cast<size_t>(j * k + i)] = out[static_cast<size_t>(i * n + j)];
  }
  return rows;
}

TEST(Weights, EveryGoldenFolderLoadsWithoutAWarning) {
  struct Case {
    const char* name;
    int ignored, kv_scales;
    size_t media;
  };
  for (const Case& c : {Case{"quant/seed0/base", 0, 0, 11}, {"quant/seed0/nvfp4_mse", 12, 12, 11}, {"quant/seed1/fp8_max", 4, 4, 11},
                        {"quant/seed2/nvfp4_mse", 0, 0, 11}, {"model/tiny", 0, 0, 11}, {"model/tiny-realdims", 0, 0, 0}}) {
    const ModelWeights w = load(c.name);
    EXPECT_TRUE(w.warnings.empty()) << c.name << ": " << w.warnings[0];
    EXPECT_EQ(w.media.size(), c.media) << c.name;
    if (std::string(c.name) == "quant/seed2/nvfp4_mse") continue;
    EXPECT_EQ(w.num_ignored, c.ignored) << c.name;
    EXPECT_EQ(w.num_kv_scales, c.kv_scales) << c.name;
  }
}

TEST(Weights, FormatsFollowTheTensors) {
  const ModelWeights nvfp4 = load("quant/seed0/nvfp4_mse"), fp8 = load("quant/seed1/fp8_max"), plain = load("quant/seed0/base");
  EXPECT_TRUE(std::holds_alternative<Nvfp4Weight>(nvfp4.layers[0].gate));
  EXPECT_TRUE(std::holds_alternative<Bf16Weight>(nvfp4.layers[0].q));
  EXPECT_GT(std::get<Nvfp4Weight>(nvfp4.layers[0].down).input_scale, 0.0f);
  EXPECT_TRUE(std::holds_alternative<Fp8BlockWeight>(fp8.layers[0].q));
  EXPECT_EQ(std::get<Fp8BlockWeight>(fp8.layers[0].gate).scales.shape, (Shape{2, 2}));
  EXPECT_FALSE(plain.layers[5].v) << "full layers make V from k_proj";
  ASSERT_TRUE(plain.layers[0].v);
  EXPECT_TRUE(plain.head_is_tied);
  EXPECT_EQ(std::get<Bf16Weight>(plain.head).weight.data, plain.embed.data);
}

TEST(Weights, Nvfp4VectorsDequantizeBitForBit) {
  const TensorFiles vectors = TensorFiles::open(test_data("quant/quant_vectors.safetensors"));
  int checked = 0;
  for (const auto& [name, stored] : vectors.tensors()) {
    const std::string suffix = ".dequant";
    if (!name.ends_with(suffix)) continue;
    const std::string base = name.substr(0, name.size() - suffix.size());
    Nvfp4Weight weight{.codes = vectors.find(base + ".packed")->tensor, .block_scales = vectors.find(base + ".scale")->tensor};
    std::memcpy(&weight.tensor_scale, vectors.find(base + ".scale2")->tensor.data, 4);
    const std::vector<float> ours = dequantized(weight);
    ASSERT_EQ(static_cast<int64_t>(ours.size()), stored.tensor.count());
    for (size_t i = 0; i < ours.size(); ++i) ASSERT_EQ(ours[i], stored.tensor.as<float>()[i]) << base << " element " << i;
    ++checked;
  }
  EXPECT_GE(checked, 11 * 4);
}

TEST(Weights, Fp8VectorsDequantizeAsDefined) {
  const TensorFiles vectors = TensorFiles::open(test_data("quant/quant_vectors.safetensors"));
  for (const std::string base : {"s0.fp8.rand.max", "s0.fp8.rand.mse", "s3.fp8.rand.max"}) {
    const Tensor codes = vectors.find(base + ".q")->tensor, scales = vectors.find(base + ".scale")->tensor;
    const Tensor plain = vectors.find(base.substr(0, base.size() - 4) + ".weight")->tensor;
    const std::vector<float> ours = dequantized(Fp8BlockWeight{codes, {scales.data, DType::f32, {scales.shape[0], scales.shape[2]}}});
    const int64_t k = codes.cols();
    for (int64_t i = 0; i < codes.count(); ++i) {
      const float scale = scales.as<float>()[i / k / 128 * scales.shape[2] + i % k / 128];
      ASSERT_EQ(ours[static_cast<size_t>(i)], to_float(codes.as<e4m3>()[i]) * scale) << base << " element " << i;
      ASSERT_EQ(codes.as<e4m3>()[i].bits, to_e4m3(to_float(plain.as<bf16>()[i]) / scale).bits) << base << " element " << i;
    }
  }
}

TEST(Weights, SizesOfTheTwelveBillionModelAreExact) {
  const ModelConfig config = config_of("model/shapes-12b");
  const auto total = [&](const QuantConfig& quant) {
    int64_t bytes = 0;
    for (const WeightGroup& group : weight_groups(ModelWeights::outline(config, quant))) bytes += group.bytes;
    return bytes;
  };
  const auto quant = [](const char* file) { return parse_quant_config("", read_file(test_data(std::string("model/shapes-12b/") + file)), "12b"); };
  EXPECT_EQ(ModelWeights::outline(config, {}).parameter_count(), 11'959'730'224);
  EXPECT_EQ(total({}), 23'919'460'448);
  constexpr int64_t kUnusedKvScales = 384;  // in the files, never in memory
  EXPECT_EQ(total(quant("nvfp4.hf_quant_config.json")), 11'710'105'184 - kUnusedKvScales);
  EXPECT_EQ(total(quant("fp8.hf_quant_config.json")), 13'022'174'432 - kUnusedKvScales);
}

// A checkpoint with some of its tensors changed, written to a folder of its own.
class BrokenWeights : public testing::Test {
 protected:
  using Tensors = std::map<std::string, Tensor>;
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("nibble_broken_" + std::to_string(::getpid()) + "_" + testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  void write(const std::string& name, const std::function<void(Tensors&)>& change) {
    const TensorFiles files = TensorFiles::open(test_data(name));
    Tensors tensors;
    for (const auto& [key, stored] : files.tensors()) tensors.emplace(key, stored.tensor);
    change(tensors);
    write_safetensors(folder_ / "model.safetensors", tensors);
  }
  ModelWeights load_written(const std::string& name, const std::function<void(ModelConfig&, QuantConfig&)>& adjust = {}) {
    config_ = config_of(name);
    quant_ = quant_of(name);
    if (adjust) adjust(config_, quant_);
    return ModelWeights::load(folder_, config_, quant_);
  }
  // The error after the folder's name.
  std::string error_of(const std::string& name, const std::function<void(Tensors&)>& change) {
    write(name, change);
    try {
      load_written(name);
    } catch (const Error& error) {
      EXPECT_EQ(error.code, ErrorCode::corrupt);
      EXPECT_TRUE(error.message.starts_with(folder_.string() + ": ")) << error.message;
      return error.message.substr(std::min(error.message.size(), folder_.string().size() + 2));
    }
    return "no error";
  }
  fs::path folder_;
  ModelConfig config_;
  QuantConfig quant_;
};

const std::string kLm = "model.language_model.";

TEST_F(BrokenWeights, MissingUnknownMisshapenAndWronglyTypedAreNamedTogether) {
  std::vector<uint8_t> zeros(1 << 16);
  EXPECT_EQ(error_of("quant/seed0/base",
                     [&](Tensors& t) {
                       t.erase(kLm + "layers.2.self_attn.q_norm.weight");
                       t[kLm + "layers.3.mlp.down_proj.weight"] = {zeros.data(), DType::bf16, {64, 64}};
                       t[kLm + "norm.weight"] = {zeros.data(), DType::i32, {64}};
                       t[kLm + "layers.6.mlp.up_proj.weight"] = {zeros.data(), DType::bf16, {4}};
                     }),
            "4 tensors do not fit config.json: norm.weight: dtype I32, expected BF16 (model.safetensors); "
            "layer 2 self_attn.q_norm.weight: missing, expected shape [16]; "
            "layer 3 mlp.down_proj.weight: shape [64, 64], expected [64, 128] (model.safetensors); "
            "model.language_model.layers.6.mlp.up_proj.weight: unknown tensor (model.safetensors)");
}

TEST_F(BrokenWeights, ManyFaultsAreCounted) {
  std::vector<uint8_t> zeros(64);
  const std::string error = error_of("quant/seed0/base", [&](Tensors& t) {
    for (int i = 0; i < 25; ++i) t[fmt::format("model.extra.{:02}", i)] = {zeros.data(), DType::u8, {1}};
  });
  EXPECT_TRUE(error.starts_with("25 tensors do not fit config.json: model.extra.00: unknown tensor")) << error;
  EXPECT_TRUE(error.ends_with("model.extra.19: unknown tensor (model.safetensors); and 5 more")) << error;
}

TEST_F(BrokenWeights, Nvfp4PartsAreChecked) {
  const std::string gate = kLm + "layers.1.mlp.gate_proj.weight", shown = "1 tensor does not fit config.json: layer 1 mlp.gate_proj.weight";
  float bad = NAN;
  std::vector<uint8_t> scales(128 * 4, 0x38);
  EXPECT_EQ(error_of("quant/seed0/nvfp4_mse", [&](Tensors& t) { t[gate + "_scale_2"] = {&bad, DType::f32, {}}; }),
            shown + "_scale_2: is nan, expected a positive finite number (model.safetensors)");
  bad = 0;
  EXPECT_EQ(error_of("quant/seed0/nvfp4_mse", [&](Tensors& t) { t[gate + "_scale_2"] = {&bad, DType::f32, {}}; }),
            shown + "_scale_2: is 0, expected a positive finite number (model.safetensors)");
  EXPECT_EQ(error_of("quant/seed0/nvfp4_mse", [&](Tensors& t) { t.erase(gate + "_scale_2"); }), shown + "_scale_2: missing, expected one F32");
  EXPECT_EQ(error_of("quant/seed0/nvfp4_mse", [&](Tensors& t) { t.erase(gate); }), shown + ": missing, expected shape [128, 32]");
  EXPECT_EQ(error_of("quant/seed0/nvfp4_mse", [&](Tensors& t) { t[gate + "_scale"] = {scales.data(), DType::u8, {128, 4}}; }),
            shown + "_scale: dtype U8, expected F8_E4M3 (model.safetensors)");
  scales[77] = 0xFF;
  EXPECT_EQ(error_of("quant/seed0/nvfp4_mse", [&](Tensors& t) { t[gate + "_scale"] = {scales.data(), DType::e4m3, {128, 4}}; }),
            shown + "_scale: holds NaN block scales (0x7F or 0xFF) (model.safetensors)");
}

TEST_F(BrokenWeights, Fp8PartsAreChecked) {
  const std::string q = kLm + "layers.0.self_attn.q_proj.weight", shown = "1 tensor does not fit config.json: layer 0 self_attn.q_proj.weight";
  std::vector<float> scales(2, 1.0f);
  EXPECT_EQ(error_of("quant/seed1/fp8_max", [&](Tensors& t) { t[q + "_scale"] = {scales.data(), DType::f32, {2}}; }),
            shown + "_scale: shape [2], expected [1, 1, 2, 1] or [1, 2] (model.safetensors)");
  EXPECT_EQ(error_of("quant/seed1/fp8_max", [&](Tensors& t) { t.erase(q + "_scale"); }), shown + "_scale: missing, expected shape [1, 1, 2, 1]");
  scales[1] = -1;
  EXPECT_EQ(error_of("quant/seed1/fp8_max", [&](Tensors& t) { t[q + "_scale"] = {scales.data(), DType::f32, {1, 2}}; }),
            shown + "_scale: holds -1, expected positive finite scales (model.safetensors)");
}

TEST_F(BrokenWeights, Fp8ScalesHaveASecondNameAndShape) {
  std::vector<float> scales{0.5f, 0.25f};
  write("quant/seed1/fp8_max", [&](Tensors& t) {
    t.erase(kLm + "layers.0.self_attn.q_proj.weight_scale");
    t[kLm + "layers.0.self_attn.q_proj.weight_scale_inv"] = {scales.data(), DType::f32, {1, 2}};
  });
  const ModelWeights w = load_written("quant/seed1/fp8_max");
  EXPECT_EQ(std::get<Fp8BlockWeight>(w.layers[0].q).scales.as<float>()[1], 0.25f);
}

TEST_F(BrokenWeights, ScaleBesideAPlainWeightIsAnError) {
  float one = 1;
  EXPECT_EQ(error_of("quant/seed0/base", [&](Tensors& t) { t[kLm + "layers.0.mlp.up_proj.weight_scale"] = {&one, DType::f32, {}}; }),
            "1 tensor does not fit config.json: layer 0 mlp.up_proj.weight_scale: a scale beside a weight of dtype BF16 (model.safetensors)");
}

TEST_F(BrokenWeights, TwoLayoutsOfOneTensorAreAnError) {
  EXPECT_EQ(error_of("quant/seed0/base", [&](Tensors& t) { t["model.embed_vision.pos_embedding"] = t["model.vision_embedder.pos_embedding"]; }),
            "1 tensor does not fit config.json: model.embed_vision.pos_embedding and model.vision_embedder.pos_embedding are one tensor in two layouts");
}

TEST_F(BrokenWeights, TextOnlyNamesLoadUnderATextOnlyConfig) {
  write("quant/seed0/base", [&](Tensors& t) {
    Tensors renamed;
    for (const auto& [name, tensor] : t) {
      if (name.starts_with(kLm)) renamed.emplace("model." + name.substr(kLm.size()), tensor);
    }
    t = renamed;
  });
  EXPECT_NO_THROW(load_written("quant/seed0/base", [](ModelConfig& c, QuantConfig&) { c.vision.reset(), c.audio.reset(); }));
}

TEST_F(BrokenWeights, MediaTensorsOfASwitchedOffPartAreIgnored) {
  write("quant/seed0/base", [](Tensors&) {});
  const ModelWeights w = load_written("quant/seed0/base", [](ModelConfig& c, QuantConfig&) { c.vision.reset(); });
  EXPECT_EQ(w.num_ignored, 10);
  EXPECT_EQ(w.media.size(), 1u);
}

TEST_F(BrokenWeights, HeadMayBeTiedCopiedOrItsOwn) {
  std::vector<uint16_t> head(512 * 64, 0x3F80);
  write("quant/seed0/base", [&](Tensors& t) { t["lm_head.weight"] = {head.data(), DType::bf16, {512, 64}}; });
  const ModelWeights tied = load_written("quant/seed0/base");
  EXPECT_EQ(std::get<Bf16Weight>(tied.head).weight.data, tied.embed.data);
  EXPECT_EQ(tied.num_ignored, 1);
  const ModelWeights own = load_written("quant/seed0/base", [](ModelConfig& c, QuantConfig&) { c.tie_word_embeddings = false; });
  EXPECT_EQ(std::get<Bf16Weight>(own.head).weight.as<uint16_t>()[5], 0x3F80);
  EXPECT_EQ(own.parameter_count(), tied.parameter_count() + 512 * 64);
}

TEST_F(BrokenWeights, WiderFloatsAreConvertedAndMustFit) {
  std::vector<float> wide(64, 1.00390625f);  // a tie between two bf16 values: to the even one
  std::vector<uint16_t> half(64, 0x3E00);    // 1.5
  write("quant/seed0/base", [&](Tensors& t) {
    t[kLm + "norm.weight"] = {wide.data(), DType::f32, {64}};
    t[kLm + "layers.0.input_layernorm.weight"] = {half.data(), DType::f16, {64}};
  });
  const ModelWeights w = load_written("quant/seed0/base");
  EXPECT_EQ(to_float(w.final_norm.as<bf16>()[63]), 1.0f);
  EXPECT_EQ(to_float(w.layers[0].input_norm.as<bf16>()[0]), 1.5f);
  half[3] = 0x7C00;
  EXPECT_EQ(error_of("quant/seed0/base", [&](Tensors& t) { t[kLm + "norm.weight"] = {half.data(), DType::f16, {64}}; }),
            "1 tensor does not fit config.json: norm.weight: 1 of 64 F16 values are not finite in BF16 (model.safetensors)");
}

TEST_F(BrokenWeights, OddHeadersCostACopyNotAFault) {
  const std::string file = read_file(test_data("quant/seed0/base/model.safetensors"));
  uint64_t length;
  std::memcpy(&length, file.data(), 8);
  const uint64_t odd = length + 1;
  write_file(folder_ / "model.safetensors", std::string(reinterpret_cast<const char*>(&odd), 8) + file.substr(8, length) + " " + file.substr(8 + length));
  const ModelWeights w = load_written("quant/seed0/base"), straight = load("quant/seed0/base");
  EXPECT_EQ(reinterpret_cast<uintptr_t>(w.embed.data) % 2, 0u);
  EXPECT_EQ(std::memcmp(w.embed.data, straight.embed.data, static_cast<size_t>(w.embed.bytes())), 0);
}

TEST_F(BrokenWeights, TensorsWinOverTheQuantizationConfig) {
  write("quant/seed0/base", [](Tensors&) {});
  const ModelWeights plain = load_written("quant/seed0/base", [](ModelConfig&, QuantConfig& q) { q = quant_of("quant/seed0/nvfp4_mse"); });
  ASSERT_EQ(plain.warnings.size(), 18u);
  EXPECT_EQ(plain.warnings[0], "layer 0 mlp.gate_proj is not quantized, quant/seed0/nvfp4_mse/config.json says otherwise");
  write("quant/seed0/nvfp4_mse", [](Tensors&) {});
  const ModelWeights quantized = load_written("quant/seed0/nvfp4_mse", [](ModelConfig&, QuantConfig& q) { q = {}; });
  EXPECT_EQ(quantized.warnings[0], "layer 0 mlp.gate_proj is quantized, though no quantization config says so");
}
}  // namespace
}  // namespace nibble
