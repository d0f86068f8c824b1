#include <webp/decode.h>
#include <webp/demux.h>

#include <memory>

#include "media/image_codecs.h"

namespace nibble {
Result<int> decode_webp(Bytes bytes, const ImageLimits& limits, Image& image) {
  WebPBitstreamFeatures features;
  if (WebPGetFeatures(bytes.data(), bytes.size(), &features) != VP8_STATUS_OK) return fail(ErrorCode::corrupt, "broken WebP image: its header cannot be read");
  if (auto size = check_size(features.width, features.height, limits); !size) return tl::unexpected(size.error());
  const WebPData data{bytes.data(), bytes.size()};
  const std::unique_ptr<WebPDemuxer, decltype(&WebPDemuxDelete)> demuxer(WebPDemux(&data), WebPDemuxDelete);
  if (!demuxer) return fail(ErrorCode::corrupt, "broken WebP image: the file ends early");
  const int64_t width = WebPDemuxGetI(demuxer.get(), WEBP_FF_CANVAS_WIDTH), height = WebPDemuxGetI(demuxer.get(), WEBP_FF_CANVAS_HEIGHT);
  if (auto size = check_size(width, height, limits); !size) return tl::unexpected(size.error());

  int orientation = 1;
  WebPChunkIterator chunk;
  if (WebPDemuxGetChunk(demuxer.get(), "EXIF", 1, &chunk)) {
    orientation = exif_orientation({chunk.chunk.bytes, chunk.chunk.size});
    WebPDemuxReleaseChunkIterator(&chunk);
  }
  image.width = static_cast<int32_t>(width);
  image.height = static_cast<int32_t>(height);
  const int64_t pixels = width * height;
  image.rgb.resize(static_cast<size_t>(pixels) * 3);
  if (features.has_animation) {
    const std::unique_ptr<WebPAnimDecoder, decltype(&WebPAnimDecoderDelete)> decoder(WebPAnimDecoderNew(&data, nullptr), WebPAnimDecoderDelete);
    uint8_t* rgba = nullptr;
    int timestamp = 0;
    if (!decoder || !WebPAnimDecoderGetNext(decoder.get(), &rgba, &timestamp)) return fail(ErrorCode::corrupt, "broken WebP image: its first frame cannot be read");
    flatten(rgba, pixels, image.rgb.data());
    return orientation;
  }
  if (features.has_alpha) {
    std::vector<uint8_t> rgba(static_cast<size_t>(pixels) * 4);
    if (!WebPDecodeRGBAInto(bytes.data(), bytes.size(), rgba.data(), rgba.size(), static_cast<int>(width * 4))) return fail(ErrorCode::corrupt, "broken WebP image");
    flatten(rgba.data(), pixels, image.rgb.data());
  } else if (!WebPDecodeRGBInto(bytes.data(), bytes.size(), image.rgb.data(), image.rgb.size(), static_cast<int>(width * 3))) {
    return fail(ErrorCode::corrupt, "broken WebP image");
  }
  return orientation;
}
}  // namespace nibble
