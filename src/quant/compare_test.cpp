// Comparing checkpoints: by hand on three values, and on the reference quantizer's exports, whose errors the quantizer itself measured.
#include "quant/compare.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/number_formats.h"
#include "base/test_paths.h"
#include "formats/safetensors.h"
#include "quant/quantize.h"
#include "quant/report.h"

namespace nibble {
namespace {
namespace fs = std::filesystem;

struct Folder {
  Folder() {
    std::string pattern = (fs::temp_directory_path() / "nibble-compare-XXXXXX").string();
    path = ::mkdtemp(pattern.data());
    fs::create_directories(path / "a");
    fs::create_directories(path / "b");
  }
  ~Folder() { fs::remove_all(path); }
  fs::path path;
};

TEST(Compare, ByHand) {
  const Folder folder;
  float x[] = {3, 4, 0, 0}, y[] = {3, 4, 0, 5}, z[] = {1};
  write_safetensors(folder.path / "a/model.safetensors", {{"model.language_model.norm.weight", {x, DType::f32, {2, 2}}}, {"same", {z, DType::f32, {1}}}, {"gone", {z, DType::f32, {1}}}});
  write_safetensors(folder.path / "b/model.safetensors", {{"model.norm.weight", {y, DType::f32, {2, 2}}}, {"same", {z, DType::f32, {1}}}});
  const auto got = compare_checkpoints(folder.path / "a", folder.path / "b", 1);
  ASSERT_EQ(got.size(), 3u);
  EXPECT_EQ(got[0].name, "gone");
  EXPECT_TRUE(got[0].missing());
  EXPECT_EQ(got[1].name, "language_model.norm.weight");  // both spellings are one name
  EXPECT_DOUBLE_EQ(got[1].relative_error(), 1.0);        // 5 / 5
  EXPECT_EQ(got[1].worst_row, 1);
  EXPECT_DOUBLE_EQ(got[1].worst_block_error, 5.0);       // A is zero there
  EXPECT_EQ(got[2].relative_error(), 0);
}

class CompareExport : public testing::TestWithParam<Recipe> {};

TEST_P(CompareExport, FindsTheErrorsThatTheQuantizerReported) {
  const Folder folder;
  const fs::path source = test_data(GetParam() == Recipe::nvfp4_mlp_only ? "quant/seed0/base" : "quant/seed1/base");
  const QuantizeReport report = quantize_checkpoint({.source = source, .target = folder.path / "out", .recipe = GetParam(), .reexport_names = true, .threads = 2, .version = "1"});
  const auto got = compare_checkpoints(source, folder.path / "out", 2);
  size_t different = 0;
  double before = INFINITY;
  for (const TensorDifference& d : got) {
    EXPECT_FALSE(d.missing()) << d.name;
    EXPECT_LE(d.relative_error(), before) << "worst first";
    before = d.relative_error();
    if (d.error_sq == 0) continue;
    ++different;
    const auto matrix = std::find_if(report.matrices.begin(), report.matrices.end(), [&](const MatrixReport& m) { return m.name == "model." + d.name; });
    ASSERT_NE(matrix, report.matrices.end()) << d.name;
    EXPECT_EQ(d.format_b, matrix->format);
    EXPECT_NEAR(sqnr_db(d.a_sq, d.error_sq), sqnr_db(matrix->error.weight_sq, matrix->error.error_sq), 1e-6) << d.name;
  }
  EXPECT_EQ(different, report.matrices.size());
}
INSTANTIATE_TEST_SUITE_P(Recipes, CompareExport, testing::Values(Recipe::nvfp4_mlp_only, Recipe::fp8_pb_wo), [](const auto& p) { return p.param == Recipe::fp8_pb_wo ? "Fp8" : "Nvfp4"; });

TEST(Compare, ShapesThatDifferAndScalesThatAreMissingAreNamed) {
  const Folder folder;
  float x[4] = {};
  uint8_t codes[16] = {};
  write_safetensors(folder.path / "a/model.safetensors", {{"w", {x, DType::f32, {4}}}});
  write_safetensors(folder.path / "b/model.safetensors", {{"w", {x, DType::f32, {2, 2}}}});
  EXPECT_THROW(compare_checkpoints(folder.path / "a", folder.path / "b", 1), Error);
  write_safetensors(folder.path / "b/model.safetensors", {{"w", {codes, DType::u8, {2, 8}}}});
  try {
    compare_checkpoints(folder.path / "a", folder.path / "b", 1);
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_NE(error.message.find("weight_scale"), std::string::npos) << error.message;
  }
}
}  // namespace
}  // namespace nibble
