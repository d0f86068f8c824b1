// A photograph of 12 megapixels from JPEG bytes to the patches of the model, on one core: the CPU column. The picture is smooth areas, edges and grain, 1.2 MB
// as JPEG.
#include <benchmark/benchmark.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>

#include <jpeglib.h>

#include "base/rng.h"
#include "media/resize.h"

namespace nibble {
namespace {
constexpr int32_t kWidth = 4000, kHeight = 3000;

Image photograph() {
  Image image{.width = kWidth, .height = kHeight, .rgb = std::vector<uint8_t>(size_t{kWidth} * kHeight * 3)};
  size_t at = 0;
  for (int32_t y = 0; y < kHeight; ++y) {
    for (int32_t x = 0; x < kWidth; ++x) {
      const auto grain = philox4x32({static_cast<uint32_t>(x), static_cast<uint32_t>(y), 0, 0}, 1);
      const bool inside = std::hypot(x % 500 - 250, y % 500 - 250) < 180;
      for (size_t c = 0; c < 3; ++c) {
        const double light = 110 + 60 * std::sin(x / 310.0 + static_cast<double>(c)) * std::cos(y / 270.0) + (inside ? 45 : 0) + static_cast<double>(grain[c] % 13) - 6;
        image.rgb[at++] = static_cast<uint8_t>(light);
      }
    }
  }
  return image;
}

std::vector<std::byte> encode(Image& image, int quality) {
  jpeg_compress_struct jpeg{};
  jpeg_error_mgr errors{};
  jpeg.err = jpeg_std_error(&errors);
  jpeg_create_compress(&jpeg);
  unsigned char* memory = nullptr;
  unsigned long size = 0;
  jpeg_mem_dest(&jpeg, &memory, &size);
  jpeg.image_width = static_cast<JDIMENSION>(image.width);
  jpeg.image_height = static_cast<JDIMENSION>(image.height);
  jpeg.input_components = 3;
  jpeg.in_color_space = JCS_RGB;
  jpeg_set_defaults(&jpeg);
  jpeg_set_quality(&jpeg, quality, TRUE);
  jpeg_start_compress(&jpeg, TRUE);
  while (jpeg.next_scanline < jpeg.image_height) {
    JSAMPROW row = image.rgb.data() + size_t{jpeg.next_scanline} * static_cast<size_t>(image.width) * 3;
    jpeg_write_scanlines(&jpeg, &row, 1);
  }
  jpeg_finish_compress(&jpeg);
  jpeg_destroy_compress(&jpeg);
  const std::vector<std::byte> bytes(reinterpret_cast<std::byte*>(memory), reinterpret_cast<std::byte*>(memory) + size);
  std::free(memory);
  return bytes;
}

const std::vector<std::byte>& photograph_bytes() {
  static const std::vector<std::byte> bytes = [] {
    Image image = photograph();
    return encode(image, 85);
  }();
  return bytes;
}

void decode_12_megapixels(benchmark::State& state) {
  const auto& bytes = photograph_bytes();
  for (auto _ : state) benchmark::DoNotOptimize(value_or_raise(decode_image(bytes)).rgb.data());
  state.counters["jpeg_bytes"] = static_cast<double>(bytes.size());
}
BENCHMARK(decode_12_megapixels)->Unit(benchmark::kMillisecond);

void decode_and_cut_12_megapixels(benchmark::State& state) {
  const auto& bytes = photograph_bytes();
  for (auto _ : state) {
    const Image image = value_or_raise(decode_image(bytes));
    benchmark::DoNotOptimize(value_or_raise(image_patches(image, static_cast<int32_t>(state.range(0)))).pixels.data());
  }
}
BENCHMARK(decode_and_cut_12_megapixels)->Arg(280)->Arg(1120)->Unit(benchmark::kMillisecond);
}  // namespace
}  // namespace nibble
