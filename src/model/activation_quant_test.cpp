// Activations rounded to NVFP4 as they come, against the reference quantizer's.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "base/number_formats.h"
#include "base/test_paths.h"
#include "base/thread_pool.h"
#include "formats/safetensors.h"
#include "kernels/cpu/packed_linear.h"

namespace nibble {
namespace {
class ActivationQuantGoldens : public testing::TestWithParam<std::string> {
 protected:
  TensorFiles files_ = TensorFiles::open(test_data("quant/quant_vectors.safetensors"));
  ThreadPool threads_{2};
  Tensor golden(const std::string& name) const { return files_.find(GetParam() + "." + name)->tensor; }
};

TEST_P(ActivationQuantGoldens, RowsRoundToTheReferencesValues) {
  const Tensor x = golden("w4a4.x"), scales = golden("w4a4.x_scale"), dequantized = golden("w4a4.x_dequant");
  const float global = *golden("w4a4.input_scale").as<float>();
  const auto count = static_cast<size_t>(x.count());
  std::vector<bf16> rounded(count);
  cpu::quantize_nvfp4_rows(x, global, {rounded.data(), DType::bf16, {x.rows(), x.cols()}}, threads_);
  std::vector<float> wide(count), wide_out(count);
  for (size_t i = 0; i < count; ++i) wide[i] = to_float(x.as<bf16>()[i]);
  cpu::quantize_nvfp4_rows({wide.data(), DType::f32, {x.rows(), x.cols()}}, global, {wide_out.data(), DType::f32, {x.rows(), x.cols()}}, threads_);
  for (size_t i = 0; i < count; ++i) {
    ASSERT_EQ(wide_out[i], to_float(rounded[i])) << i;
    // The simulation writes blocks whose step is below 1e-5 as zero; a value is at most 6 steps.
    const float step = to_float(scales.as<e4m3>()[i / 16]) * global;
    if (step < 1e-5f && dequantized.as<float>()[i] == 0.0f) continue;
    ASSERT_NEAR(wide_out[i] * global, dequantized.as<float>()[i], 1e-6f * std::fabs(dequantized.as<float>()[i])) << i;
  }
}

TEST_P(ActivationQuantGoldens, TheLinearIsTheReferences) {
  const Tensor x = golden("w4a4.x"), packed = golden("nvfp4.heavy.mse.packed"), scale = golden("nvfp4.heavy.mse.scale");
  const LinearWeight weight = Nvfp4Weight{packed, scale, *golden("nvfp4.heavy.mse.scale2").as<float>(), *golden("w4a4.input_scale").as<float>()};
  for (const auto& [quant, name] : {std::pair{ActivationQuant::nvfp4, "w4a4.y"}, {ActivationQuant::none, "w4a16.y"}}) {
    const Tensor want = golden(name);
    std::vector<float> got(static_cast<size_t>(want.count()));
    cpu::run_linear(*cpu::pack_linear(weight, quant, threads_), x, {got.data(), DType::f32, {want.rows(), want.cols()}}, threads_);
    float largest = 0;
    for (size_t i = 0; i < got.size(); ++i) largest = std::max(largest, std::fabs(want.as<float>()[i]));
    for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], want.as<float>()[i], 2e-6f * largest) << name << " " << i;  // of 64 products, f32 against f64
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, ActivationQuantGoldens, testing::Values("s0", "s1", "s2", "s3"));
}  // namespace
}  // namespace nibble
