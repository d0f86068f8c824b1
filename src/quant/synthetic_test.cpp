// A synthetic checkpoint is whole, has no zeros, spreads as asked, and is the same on any number of threads.
#include "quant/synthetic.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/file_io.h"
#include "base/number_formats.h"
#include "base/test_paths.h"
#include "formats/model_config.h"
#include "formats/quant_config.h"
#include "formats/safetensors.h"
#include "model/weights.h"

namespace nibble {
namespace {
namespace fs = std::filesystem;

TEST(Synthetic, IsWholeWithoutZerosAndRepeatable) {
  std::string pattern = (fs::temp_directory_path() / "nibble-synthetic-XXXXXX").string();
  const fs::path folder = ::mkdtemp(pattern.data());
  const fs::path source = test_data("quant/seed0/base");
  int64_t bytes = 0;
  for (const auto& [name, threads] : {std::pair("one", 1), std::pair("three", 3)}) bytes = write_synthetic_checkpoint({.source = source, .target = folder / name, .max_shard_bytes = 150'000, .threads = threads});
  const std::string json = read_file(source / "config.json");
  const ModelConfig config = parse_model_config(json, "config.json");
  const ModelWeights weights = ModelWeights::load(folder / "one", config, parse_quant_config(json, "", "one"));  // raises if anything is missing, unknown or misshapen
  EXPECT_EQ(static_cast<int32_t>(weights.layers.size()), config.num_layers());
  const TensorFiles one = TensorFiles::open(folder / "one"), three = TensorFiles::open(folder / "three");
  EXPECT_EQ(one.total_bytes(), bytes);
  EXPECT_GT(std::distance(fs::directory_iterator(folder / "one"), {}), 3);  // shards, index, config
  for (const auto& [name, stored] : one.tensors()) {
    const Tensor& t = stored.tensor;
    ASSERT_EQ(std::memcmp(t.data, three.find(name)->tensor.data, static_cast<size_t>(t.bytes())), 0) << name;
    double squares = 0, sum = 0;
    for (int64_t i = 0; i < t.count(); ++i) {
      const double w = static_cast<double>(to_float(t.as<bf16>()[i]));
      ASSERT_TRUE(std::isfinite(w) && w != 0) << name;
      squares += w * w;
      sum += w;
    }
    if (!name.ends_with("mlp.down_proj.weight")) continue;
    const auto n = static_cast<double>(t.count());
    EXPECT_NEAR(squares / n * 128, 1, 0.05) << name;              // variance 1 / K, K = 128, of 8,192 values
    EXPECT_NEAR(sum / n * std::sqrt(128.0), 0, 5 / std::sqrt(n)) << name;
  }
  EXPECT_THROW(write_synthetic_checkpoint({.source = source, .target = folder / "one"}), Error);
  fs::remove_all(folder);
}
}  // namespace
}  // namespace nibble
