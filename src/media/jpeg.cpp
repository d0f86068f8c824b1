// libjpeg reports errors by a long jump. What must be freed after one lives in a struct that outlives the jump.
#include <csetjmp>
#include <cstdio>

#include <jpeglib.h>

#include <jerror.h>

#include "media/image_codecs.h"

namespace nibble {
namespace {
// A progressive file may send any number of scans over the whole picture; real ones have about ten.
constexpr int kMaxScans = 200;

struct Reader {
  jpeg_decompress_struct jpeg{};
  jpeg_error_mgr errors{};
  jpeg_progress_mgr progress{};
  std::jmp_buf failed{};
  char message[JMSG_LENGTH_MAX] = "";
  std::vector<uint8_t> row;

  ~Reader() { jpeg_destroy_decompress(&jpeg); }
};

Reader& reader_of(j_common_ptr jpeg) { return *static_cast<Reader*>(jpeg->client_data); }

[[noreturn]] void on_error(j_common_ptr jpeg) {
  Reader& reader = reader_of(jpeg);
  jpeg->err->format_message(jpeg, reader.message);
  std::longjmp(reader.failed, 1);
}

// Warnings mean that data is missing or wrong, but for bytes between segments, which many cameras leave.
void on_message(j_common_ptr jpeg, int level) {
  if (level >= 0 || jpeg->err->msg_code == JWRN_EXTRANEOUS_DATA || jpeg->err->msg_code == JWRN_ADOBE_XFORM || jpeg->err->msg_code == JWRN_JFIF_MAJOR) return;
  on_error(jpeg);
}

void on_progress(j_common_ptr jpeg) {
  if (jpeg->is_decompressor && reinterpret_cast<j_decompress_ptr>(jpeg)->input_scan_number > kMaxScans) {
    std::snprintf(reader_of(jpeg).message, JMSG_LENGTH_MAX, "more than %d scans", kMaxScans);
    std::longjmp(reader_of(jpeg).failed, 1);
  }
}

// No object with a destructor may begin its life in here.
bool read(Reader& reader, Bytes bytes, const ImageLimits& limits, Image& image, bool& too_large, int& orientation) {
  jpeg_decompress_struct& jpeg = reader.jpeg;
  if (setjmp(reader.failed)) return false;
  jpeg_mem_src(&jpeg, bytes.data(), bytes.size());
  jpeg_save_markers(&jpeg, JPEG_APP0 + 1, 0xFFFF);
  jpeg_read_header(&jpeg, TRUE);
  if (int64_t{jpeg.image_width} * jpeg.image_height > limits.max_pixels) {
    too_large = true;
    return false;
  }
  for (const jpeg_marker_struct* marker = jpeg.marker_list; marker; marker = marker->next) {
    if (marker->marker == JPEG_APP0 + 1 && marker->data_length > 6 && marker->data[0] == 'E') orientation = exif_orientation({marker->data, marker->data_length});
  }
  const bool cmyk = jpeg.jpeg_color_space == JCS_CMYK || jpeg.jpeg_color_space == JCS_YCCK;
  jpeg.out_color_space = cmyk ? JCS_CMYK : JCS_RGB;
  jpeg_start_decompress(&jpeg);
  image.width = static_cast<int32_t>(jpeg.output_width);
  image.height = static_cast<int32_t>(jpeg.output_height);
  const size_t stride = size_t{jpeg.output_width} * 3;
  image.rgb.resize(stride * jpeg.output_height);
  if (cmyk) reader.row.resize(size_t{jpeg.output_width} * 4);
  while (jpeg.output_scanline < jpeg.output_height) {
    uint8_t* out = image.rgb.data() + stride * jpeg.output_scanline;
    JSAMPROW rows[1] = {cmyk ? reader.row.data() : out};
    jpeg_read_scanlines(&jpeg, rows, 1);
    if (!cmyk) continue;
    // Files with Adobe's marker store the inks inverted.
    const uint32_t flip = jpeg.saw_Adobe_marker ? 0 : 255;
    for (size_t x = 0; x < jpeg.output_width; ++x) {
      const uint32_t k = reader.row[x * 4 + 3] ^ flip;
      for (size_t c = 0; c < 3; ++c) out[x * 3 + c] = static_cast<uint8_t>(((reader.row[x * 4 + c] ^ flip) * k + 127) / 255);
    }
  }
  jpeg_finish_decompress(&jpeg);
  return true;
}
}  // namespace

Result<int> decode_jpeg(Bytes bytes, const ImageLimits& limits, Image& image) {
  Reader reader;
  reader.jpeg.err = jpeg_std_error(&reader.errors);
  reader.errors.error_exit = on_error;
  reader.errors.emit_message = on_message;
  jpeg_create_decompress(&reader.jpeg);
  reader.jpeg.client_data = &reader;
  reader.progress.progress_monitor = on_progress;
  reader.jpeg.progress = &reader.progress;
  bool too_large = false;
  int orientation = 1;
  if (!read(reader, bytes, limits, image, too_large, orientation)) {
    if (too_large) return tl::unexpected(check_size(reader.jpeg.image_width, reader.jpeg.image_height, limits).error());
    return fail(ErrorCode::corrupt, "broken JPEG image: {}", reader.message);
  }
  return orientation;
}
}  // namespace nibble
