// libpng reports errors by a long jump, as libjpeg does.
#include <png.h>

#include <csetjmp>
#include <cstring>

#include "media/image_codecs.h"

namespace nibble {
namespace {
struct Reader {
  png_structp png = nullptr;
  png_infop info = nullptr;
  Bytes rest;
  std::string message;
  std::vector<uint8_t> pixels;
  std::vector<png_bytep> rows;
  ~Reader() { png_destroy_read_struct(&png, &info, nullptr); }
};

[[noreturn]] void on_error(png_structp png, png_const_charp message) {
  static_cast<Reader*>(png_get_error_ptr(png))->message = message;
  png_longjmp(png, 1);
}
void on_warning(png_structp, png_const_charp) {}

void read_bytes(png_structp png, png_bytep to, png_size_t n) {
  Reader& reader = *static_cast<Reader*>(png_get_io_ptr(png));
  if (n > reader.rest.size()) png_error(png, "the file ends early");
  std::memcpy(to, reader.rest.data(), n);
  reader.rest = reader.rest.subspan(n);
}

enum class Outcome { good, broken, bad_size };

// No object with a destructor may begin its life in here.
Outcome read(Reader& r, const ImageLimits& limits, Image& image, bool& has_alpha, int& orientation) {
  if (setjmp(png_jmpbuf(r.png))) return Outcome::broken;
  png_set_read_fn(r.png, &r, read_bytes);
  png_set_user_limits(r.png, 0x7fffffff, 0x7fffffff);
  png_set_chunk_malloc_max(r.png, 16 << 20);
  png_read_info(r.png, r.info);
  const int64_t width = png_get_image_width(r.png, r.info), height = png_get_image_height(r.png, r.info);
  if (width * height > limits.max_pixels) {
    image.width = static_cast<int32_t>(width), image.height = static_cast<int32_t>(height);
    return Outcome::bad_size;
  }
  png_uint_32 exif_bytes = 0;
  png_bytep exif = nullptr;
  if (png_get_eXIf_1(r.png, r.info, &exif_bytes, &exif) && exif) orientation = exif_orientation({exif, exif_bytes});
  has_alpha = (png_get_color_type(r.png, r.info) & PNG_COLOR_MASK_ALPHA) || png_get_valid(r.png, r.info, PNG_INFO_tRNS);
  png_set_expand(r.png);
  png_set_scale_16(r.png);
  png_set_gray_to_rgb(r.png);
  png_set_interlace_handling(r.png);
  png_read_update_info(r.png, r.info);
  const size_t stride = png_get_rowbytes(r.png, r.info);
  if (stride != static_cast<size_t>(width) * (has_alpha ? 4 : 3)) png_error(r.png, "unexpected row size");
  image.width = static_cast<int32_t>(width);
  image.height = static_cast<int32_t>(height);
  std::vector<uint8_t>& pixels = has_alpha ? r.pixels : image.rgb;
  pixels.resize(stride * static_cast<size_t>(height));
  r.rows.resize(static_cast<size_t>(height));
  for (size_t y = 0; y < r.rows.size(); ++y) r.rows[y] = pixels.data() + y * stride;
  png_read_image(r.png, r.rows.data());
  png_read_end(r.png, nullptr);
  return Outcome::good;
}
}  // namespace

Result<int> decode_png(Bytes bytes, const ImageLimits& limits, Image& image) {
  Reader reader;
  reader.rest = bytes;
  reader.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &reader, on_error, on_warning);
  reader.info = reader.png ? png_create_info_struct(reader.png) : nullptr;
  if (!reader.info) return fail(ErrorCode::out_of_memory, "no memory for a PNG reader");
  bool has_alpha = false;
  int orientation = 1;
  switch (read(reader, limits, image, has_alpha, orientation)) {
    case Outcome::broken: return fail(ErrorCode::corrupt, "broken PNG image: {}", reader.message);
    case Outcome::bad_size: return tl::unexpected(check_size(image.width, image.height, limits).error());
    case Outcome::good: break;
  }
  if (has_alpha) {
    const int64_t count = int64_t{image.width} * image.height;
    image.rgb.resize(static_cast<size_t>(count) * 3);
    flatten(reader.pixels.data(), count, image.rgb.data());
  }
  return orientation;
}
}  // namespace nibble
