#include "app/inspect_checkpoint.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "base/error.h"
#include "base/test_paths.h"

namespace nibble {
namespace {
InspectCheckpointOptions options_for(const std::string& name) {
  InspectCheckpointOptions options;
  options.model.name = test_data(name).string();
  return options;
}

TEST(InspectCheckpoint, JsonTellsFormatsAndUnusedScales) {
  InspectCheckpointOptions options = options_for("quant/seed0/nvfp4_mse");
  options.json = options.plan = true;
  std::ostringstream out;
  EXPECT_EQ(inspect_checkpoint(options, out), 0);
  const auto report = nlohmann::json::parse(out.str());
  EXPECT_EQ(report["quantization"], "NVFP4");
  EXPECT_EQ(report["kv_cache_dtype"], "F8_E4M3");
  EXPECT_EQ(report["kv_scales_found"], 12);
  EXPECT_EQ(report["kv_scales_used"], 0);
  EXPECT_TRUE(report["problems"].empty());
  // One full layer with one head of 32, K and V in one byte each.
  EXPECT_EQ(report["plan"]["kv_bytes_per_token"], 64);
  bool nvfp4_mlp = false;
  for (const auto& group : report["groups"]) nvfp4_mlp |= group["group"] == "MLP" && group["format"] == "NVFP4" && group["parameters"] == 6 * 3 * 64 * 128;
  EXPECT_TRUE(nvfp4_mlp);
}

TEST(InspectCheckpoint, ProblemsAreListedAndGiveExitCodeOne) {
  InspectCheckpointOptions options = options_for("quant/seed0/base");
  options.overrides = R"({"text_config": {"intermediate_size": 256}})";
  std::ostringstream out;
  EXPECT_EQ(inspect_checkpoint(options, out), 1);
  EXPECT_NE(out.str().find("problem: layer 5 mlp.down_proj.weight: shape [64, 128], expected [64, 256] (model.safetensors)"), std::string::npos) << out.str();
}

TEST(InspectCheckpoint, WrongKvDtypeIsRefused) {
  InspectCheckpointOptions options = options_for("quant/seed0/base");
  options.kv_cache_dtype = "fp8_e5m2";
  std::ostringstream out;
  EXPECT_THROW(inspect_checkpoint(options, out), Error);
}
}  // namespace
}  // namespace nibble
