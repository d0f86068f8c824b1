#include "media/resize.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/assert.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define NB_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define NB_CLONES
#endif

namespace nibble {
namespace {
double cubic(double t) {
  t = std::fabs(t);
  if (t < 1.0) return (1.5 * t - 2.5) * t * t + 1.0;
  if (t < 2.0) return ((-0.5 * t + 2.5) * t - 4.0) * t + 2.0;
  return 0.0;
}

// How one axis of n samples becomes m: output i is the sum of `count[i]` inputs from first[i] on.
struct Axis {
  int64_t most = 0;  // taps per output
  int shift = 0;
  std::vector<int32_t> first, count;
  std::vector<int16_t> weights;  // [m, most]
};

Axis make_axis(int64_t n, int64_t m) {
  Axis axis;
  const double scale = static_cast<double>(n) / static_cast<double>(m), filter_scale = std::max(scale, 1.0), support = 2.0 * filter_scale, inverse = 1.0 / filter_scale;
  axis.most = static_cast<int64_t>(std::ceil(support)) * 2 + 1;
  std::vector<double> weights(static_cast<size_t>(m * axis.most));
  double highest = 0.0;
  for (int64_t i = 0; i < m; ++i) {
    const double center = scale * (static_cast<double>(i) + 0.5);
    const int64_t low = std::max<int64_t>(static_cast<int64_t>(center - support + 0.5), 0), high = std::min<int64_t>(static_cast<int64_t>(center + support + 0.5), n);
    double* w = weights.data() + i * axis.most;
    double sum = 0.0;
    for (int64_t j = low; j < high; ++j) sum += w[j - low] = cubic((static_cast<double>(j) - center + 0.5) * inverse);
    for (int64_t j = low; j < high; ++j) {
      if (sum != 0.0) w[j - low] /= sum;
      highest = std::max(highest, w[j - low]);
    }
    axis.first.push_back(static_cast<int32_t>(low));
    axis.count.push_back(static_cast<int32_t>(high - low));
  }
  while (axis.shift < 22 && static_cast<int64_t>(0.5 + highest * static_cast<double>(int64_t{1} << (axis.shift + 1))) < 32768) ++axis.shift;
  for (const double w : weights) axis.weights.push_back(static_cast<int16_t>(w * static_cast<double>(int64_t{1} << axis.shift) + (w >= 0 ? 0.5 : -0.5)));
  return axis;
}

constexpr int64_t kRows = 16;  // of the picture that the horizontal pass works on at once, in the lanes

// in [columns, kRows], out [kRows] of one output column and channel: columns `stride` rows apart.
NB_CLONES void filter_lanes(const int16_t* in, int64_t stride, const int16_t* weights, int64_t taps, int shift, uint8_t* out) {
  int32_t sum[kRows];
  for (int64_t r = 0; r < kRows; ++r) sum[r] = 1 << (shift - 1);
  for (int64_t j = 0; j < taps; ++j) {
    const int32_t w = weights[j];
    const int16_t* column = in + j * stride;
    for (int64_t r = 0; r < kRows; ++r) sum[r] += w * column[r];
  }
  for (int64_t r = 0; r < kRows; ++r) out[r] = static_cast<uint8_t>(std::clamp(sum[r] >> shift, 0, 255));
}

// [kRows rows of `bytes`] to [bytes, kRows].
NB_CLONES void to_lanes(const uint8_t* const* rows, int64_t bytes, int16_t* lanes) {
  for (int64_t i = 0; i < bytes; ++i) {
    for (int64_t r = 0; r < kRows; ++r) lanes[i * kRows + r] = rows[r][i];
  }
}

Image resize_width(const Image& image, int32_t width) {
  const Axis axis = make_axis(image.width, width);
  const int64_t in_bytes = int64_t{image.width} * 3, out_bytes = int64_t{width} * 3;
  Image out{.width = width, .height = image.height, .rgb = std::vector<uint8_t>(static_cast<size_t>(out_bytes * image.height))};
  std::vector<int16_t> lanes(static_cast<size_t>(in_bytes * kRows));
  std::vector<uint8_t> filtered(static_cast<size_t>(out_bytes * kRows));
  for (int64_t y = 0; y < image.height; y += kRows) {
    const uint8_t* rows[kRows];
    for (int64_t r = 0; r < kRows; ++r) rows[r] = image.rgb.data() + std::min<int64_t>(y + r, image.height - 1) * in_bytes;
    to_lanes(rows, in_bytes, lanes.data());
    for (int64_t x = 0; x < width; ++x) {
      for (int64_t c = 0; c < 3; ++c) {
        filter_lanes(lanes.data() + (int64_t{axis.first[static_cast<size_t>(x)]} * 3 + c) * kRows, 3 * kRows, axis.weights.data() + x * axis.most,
                     axis.count[static_cast<size_t>(x)], axis.shift, filtered.data() + (x * 3 + c) * kRows);
      }
    }
    for (int64_t r = 0; r < std::min<int64_t>(kRows, image.height - y); ++r) {
      uint8_t* to = out.rgb.data() + (y + r) * out_bytes;
      for (int64_t i = 0; i < out_bytes; ++i) to[i] = filtered[static_cast<size_t>(i * kRows + r)];
    }
  }
  return out;
}

NB_CLONES void add_row(const uint8_t* in, int32_t weight, int64_t n, int32_t* sums) {
  for (int64_t i = 0; i < n; ++i) sums[i] += weight * in[i];
}

NB_CLONES void finish_row(const int32_t* sums, int shift, int64_t n, uint8_t* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = static_cast<uint8_t>(std::clamp(sums[i] >> shift, 0, 255));
}

Image resize_height(const Image& image, int32_t height) {
  const Axis axis = make_axis(image.height, height);
  const int64_t bytes = int64_t{image.width} * 3;
  Image out{.width = image.width, .height = height, .rgb = std::vector<uint8_t>(static_cast<size_t>(bytes * height))};
  std::vector<int32_t> sums(static_cast<size_t>(bytes));
  for (int64_t y = 0; y < height; ++y) {
    std::fill(sums.begin(), sums.end(), 1 << (axis.shift - 1));
    for (int64_t j = 0; j < axis.count[static_cast<size_t>(y)]; ++j) {
      add_row(image.rgb.data() + (axis.first[static_cast<size_t>(y)] + j) * bytes, axis.weights[static_cast<size_t>(y * axis.most + j)], bytes, sums.data());
    }
    finish_row(sums.data(), axis.shift, bytes, out.rgb.data() + y * bytes);
  }
  return out;
}
}  // namespace

bool is_soft_token_budget(int64_t budget) { return budget == 70 || budget == 140 || budget == 280 || budget == 560 || budget == 1120; }

Result<ImageSize> target_size(int64_t width, int64_t height, int32_t budget) {
  NB_ASSERT(width > 0 && height > 0 && budget > 0, "an image and a budget are wanted");
  const double target = static_cast<double>(budget) * kPatchSide * kPatchSide, w = static_cast<double>(width), h = static_cast<double>(height);
  const double factor = std::sqrt(target / (h * w));
  int64_t th = static_cast<int64_t>(std::floor(factor * h / kPatchSide)) * kPatchSide, tw = static_cast<int64_t>(std::floor(factor * w / kPatchSide)) * kPatchSide;
  if (th == 0 && tw == 0) return fail(ErrorCode::invalid_argument, "an image of {} x {} pixels does not fit {} soft tokens", width, height, budget);
  if (th == 0) {
    th = kPatchSide;
    tw = std::min(static_cast<int64_t>(std::floor(w / h)) * kPatchSide, int64_t{budget} * kPatchSide);
  } else if (tw == 0) {
    tw = kPatchSide;
    th = std::min(static_cast<int64_t>(std::floor(h / w)) * kPatchSide, int64_t{budget} * kPatchSide);
  }
  if (static_cast<double>(th * tw) > target) return fail(ErrorCode::invalid_argument, "an image of {} x {} pixels does not fit {} soft tokens", width, height, budget);
  return ImageSize{static_cast<int32_t>(tw), static_cast<int32_t>(th)};
}

Image resize_bicubic(const Image& image, int32_t width, int32_t height) {
  if (width == image.width) return height == image.height ? image : resize_height(image, height);
  Image wide = resize_width(image, width);
  return height == image.height ? wide : resize_height(wide, height);
}

ImagePatches cut_patches(const Image& image) {
  NB_ASSERT(image.width % kPatchSide == 0 && image.height % kPatchSide == 0, "sides must be multiples of the patch");
  ImagePatches out{.pixels = std::vector<uint8_t>(image.rgb.size()), .columns = image.width / kPatchSide};
  constexpr size_t kRowBytes = size_t{kPatchSide} * 3;
  uint8_t* to = out.pixels.data();
  for (int32_t py = 0; py < image.height; py += kPatchSide) {
    for (int32_t px = 0; px < image.width; px += kPatchSide) {
      for (int32_t y = py; y < py + kPatchSide; ++y, to += kRowBytes) {
        std::memcpy(to, image.rgb.data() + (static_cast<size_t>(y) * static_cast<size_t>(image.width) + static_cast<size_t>(px)) * 3, kRowBytes);
      }
    }
  }
  return out;
}

Result<ImagePatches> image_patches(const Image& image, int32_t budget) {
  const auto size = target_size(image.width, image.height, budget);
  if (!size) return tl::unexpected(size.error());
  return cut_patches(resize_bicubic(image, size->width, size->height));
}
}  // namespace nibble
