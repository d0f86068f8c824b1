#include "formats/quant_config.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/file_io.h"
#include "base/test_paths.h"

namespace nibble {
namespace {
std::string error_of(const auto& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.message;
  }
  return "no error";
}
std::string flat(std::string_view fields) { return fmt::format(R"({{"quantization_config": {{{}}}}})", fields); }
std::string nested(std::string_view fields) { return fmt::format(R"({{"quantization": {{{}}}}})", fields); }

TEST(QuantConfig, BothPlacesOfTheExportsSayTheSame) {
  for (const auto& [name, algo] : {std::pair{"quant/seed0/nvfp4_mse", QuantAlgo::nvfp4}, {"quant/seed1/fp8_max", QuantAlgo::fp8_block}}) {
    const auto folder = test_data(name);
    const std::string config = read_file(folder / "config.json"), hf = read_file(folder / "hf_quant_config.json");
    const QuantConfig inner = parse_quant_config(config, "", name), outer = parse_quant_config("", hf, name), both = parse_quant_config(config, hf, name);
    for (const QuantConfig& q : {inner, outer, both}) {
      EXPECT_EQ(q.algo, algo);
      EXPECT_TRUE(q.kv_cache_fp8);
      EXPECT_EQ(q.excluded, inner.excluded);
    }
    EXPECT_EQ(both.source, std::string(name) + "/config.json");
    EXPECT_EQ(outer.source, std::string(name) + "/hf_quant_config.json");
  }
}

TEST(QuantConfig, NoneMeansBf16) {
  EXPECT_EQ(parse_quant_config("{}", "", "f").algo, QuantAlgo::none);
  EXPECT_FALSE(parse_quant_config("{}", "", "f").kv_cache_fp8);
}

TEST(QuantConfig, EitherFormIsReadInEitherPlace) {
  EXPECT_EQ(parse_quant_config(flat(R"("quantization": {"quant_algo": "nvfp4"})"), "", "f").algo, QuantAlgo::nvfp4);
  EXPECT_EQ(parse_quant_config("", R"({"quant_algo": "FP8_BLOCK_SCALES"})", "f").algo, QuantAlgo::fp8_block);
}

TEST(QuantConfig, KvCacheIsFp8InThreeSpellings) {
  EXPECT_TRUE(parse_quant_config(flat(R"("quant_algo": "NVFP4", "kv_cache_scheme": {"num_bits": 8, "type": "float"})"), "", "f").kv_cache_fp8);
  EXPECT_TRUE(parse_quant_config(flat(R"("quant_algo": "NVFP4", "kv_cache_scheme": "FP8")"), "", "f").kv_cache_fp8);
  EXPECT_TRUE(parse_quant_config("", nested(R"("quant_algo": "NVFP4", "kv_cache_quant_algo": "fp8")"), "f").kv_cache_fp8);
  EXPECT_FALSE(parse_quant_config(flat(R"("quant_algo": "NVFP4", "kv_cache_scheme": {"num_bits": 8, "type": "int"})"), "", "f").kv_cache_fp8);
  EXPECT_FALSE(parse_quant_config("", nested(R"("quant_algo": "NVFP4", "kv_cache_quant_algo": null)"), "f").kv_cache_fp8);
}

TEST(QuantConfig, ContradictionsAndWhatWeCannotComputeAreRefused) {
  EXPECT_EQ(error_of([] { parse_quant_config(flat(R"("quant_algo": "NVFP4")"), nested(R"("quant_algo": "fp8_pb_wo")"), "f"); }),
            "f/config.json says quant_algo NVFP4, f/hf_quant_config.json says fp8_pb_wo: one of them does not belong to these weights");
  for (const char* algo : {"NVFP4_AWQ", "FP8", "MXFP8", "MIXED_PRECISION", "W4A16_NVFP4"}) {
    EXPECT_EQ(error_of([&] { parse_quant_config("", nested(fmt::format(R"("quant_algo": "{}")", algo)), "f"); }),
              fmt::format("f/hf_quant_config.json: quant_algo {} is not supported; supported are NVFP4 and FP8_PB_WO (128x128 blocks)", algo));
  }
  EXPECT_EQ(error_of([] { parse_quant_config(flat(R"("quant_method": "gptq")"), "", "f"); }),
            "f/config.json: quant_method gptq without a quant_algo is not supported, only modelopt's NVFP4 and FP8_PB_WO");
  EXPECT_EQ(error_of([] { parse_quant_config(flat(R"("quant_algo": "NVFP4", "group_size": 32)"), "", "f"); }),
            "f/config.json: NVFP4 group_size is 32, only 16 is supported");
  EXPECT_EQ(error_of([] { parse_quant_config(flat(R"("quant_algo": "NVFP4", "config_groups": {"g": {"weights": {"group_size": 8}}})"), "", "f"); }),
            "f/config.json: NVFP4 group_size is 8, only 16 is supported");
  EXPECT_EQ(error_of([] { parse_quant_config(flat(R"("quant_algo": "NVFP4", "config_groups": {"g": null})"), "", "f"); }), "no error");
}

TEST(QuantConfig, PatternsMatchAsTheExporterMeansThem) {
  const std::string q = "model.language_model.layers.10.self_attn.q_proj";
  EXPECT_TRUE(is_excluded(q, {"model.language_model.layers.10.self_attn*"}));
  EXPECT_FALSE(is_excluded(q, {"model.language_model.layers.1.self_attn*"}));
  EXPECT_TRUE(is_excluded(q, {"language_model.layers.10.*"})) << "without the leading model.";
  EXPECT_TRUE(is_excluded(q, {"layers.10.self_attn"})) << "without language_model., and a plain pattern covers children";
  EXPECT_TRUE(is_excluded(q, {"self_attn"})) << "one component alone";
  EXPECT_TRUE(is_excluded(q, {"q_*"}));
  EXPECT_FALSE(is_excluded(q, {"model.language_model.layers.1"})) << "a component must end";
  EXPECT_FALSE(is_excluded("modelXlanguage_model", {"model.language_model"})) << "the dot is literal";
  EXPECT_TRUE(is_excluded("lm_head", {"lm_head"}));
  EXPECT_TRUE(is_excluded("model.vision_embedder.patch_dense", {"model.embed_vision*"})) << "either vision layout";
  EXPECT_TRUE(is_excluded("model.embed_vision.patch_dense", {"model.vision_embedder*"}));
  EXPECT_FALSE(is_excluded(q, {}));
}

TEST(QuantConfig, FlagMustAgreeWithTheFile) {
  const QuantConfig nvfp4 = parse_quant_config(flat(R"("quant_algo": "NVFP4")"), "", "f"), fp8 = parse_quant_config(flat(R"("quant_algo": "fp8_pb_wo")"), "", "f");
  for (const char* flag : {"", "modelopt", "modelopt_fp4"}) EXPECT_NO_THROW(check_quantization_flag(flag, nvfp4)) << flag;
  for (const char* flag : {"", "modelopt", "modelopt_fp8"}) EXPECT_NO_THROW(check_quantization_flag(flag, fp8)) << flag;
  EXPECT_NO_THROW(check_quantization_flag("unquant", {}));
  EXPECT_EQ(error_of([&] { check_quantization_flag("modelopt_fp4", fp8); }),
            "--quantization modelopt_fp4: f/config.json says quant_algo fp8_pb_wo; leave the flag out to take what the checkpoint says");
  EXPECT_EQ(error_of([&] { check_quantization_flag("modelopt", {}); }),
            "--quantization modelopt: the checkpoint is not quantized; leave the flag out to take what the checkpoint says");
}
}  // namespace
}  // namespace nibble
