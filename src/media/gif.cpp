#include <gif_lib.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "media/image_codecs.h"

namespace nibble {
namespace {
int read_bytes(GifFileType* gif, GifByteType* to, int n) {
  Bytes& rest = *static_cast<Bytes*>(gif->UserData);
  const size_t count = std::min(static_cast<size_t>(n), rest.size());
  std::memcpy(to, rest.data(), count);
  rest = rest.subspan(count);
  return static_cast<int>(count);
}

struct CloseGif {
  void operator()(GifFileType* gif) const { DGifCloseFile(gif, nullptr); }
};

tl::unexpected<Error> broken(const char* what) { return fail(ErrorCode::corrupt, "broken GIF image: {}", what); }
}  // namespace

Result<int> decode_gif(Bytes bytes, const ImageLimits& limits, Image& image) {
  Bytes rest = bytes;
  const std::unique_ptr<GifFileType, CloseGif> gif(DGifOpen(&rest, read_bytes, nullptr));
  if (!gif) return broken("its header cannot be read");
  if (auto size = check_size(gif->SWidth, gif->SHeight, limits); !size) return tl::unexpected(size.error());

  int transparent = -1;
  GifRecordType record = UNDEFINED_RECORD_TYPE;
  while (true) {
    if (DGifGetRecordType(gif.get(), &record) == GIF_ERROR || record == TERMINATE_RECORD_TYPE) return broken("it has no picture");
    if (record == IMAGE_DESC_RECORD_TYPE) break;
    if (record != EXTENSION_RECORD_TYPE) continue;
    int code = 0;
    GifByteType* data = nullptr;
    if (DGifGetExtension(gif.get(), &code, &data) == GIF_ERROR) return broken("an extension ends early");
    while (data) {
      GraphicsControlBlock control;
      if (code == GRAPHICS_EXT_FUNC_CODE && DGifExtensionToGCB(data[0], data + 1, &control) == GIF_OK) transparent = control.TransparentColor;
      if (DGifGetExtensionNext(gif.get(), &data) == GIF_ERROR) return broken("an extension ends early");
    }
  }
  if (DGifGetImageDesc(gif.get()) == GIF_ERROR) return broken("the picture's header cannot be read");
  const GifImageDesc& frame = gif->Image;
  if (frame.Width <= 0 || frame.Height <= 0 || frame.Left < 0 || frame.Top < 0 || frame.Left + frame.Width > gif->SWidth || frame.Top + frame.Height > gif->SHeight) {
    return broken("the picture lies outside of its canvas");
  }
  const ColorMapObject* colors = frame.ColorMap ? frame.ColorMap : gif->SColorMap;
  if (!colors) return broken("it has no colours");

  image.width = gif->SWidth;
  image.height = gif->SHeight;
  image.rgb.assign(static_cast<size_t>(image.width) * static_cast<size_t>(image.height) * 3, 255);
  std::vector<GifPixelType> line(static_cast<size_t>(frame.Width));
  const auto read_line = [&](int y) {
    if (DGifGetLine(gif.get(), line.data(), frame.Width) == GIF_ERROR) return false;
    uint8_t* out = image.rgb.data() + (static_cast<size_t>(frame.Top + y) * static_cast<size_t>(image.width) + static_cast<size_t>(frame.Left)) * 3;
    for (int x = 0; x < frame.Width; ++x) {
      const int index = line[static_cast<size_t>(x)];
      if (index == transparent) continue;
      if (index >= colors->ColorCount) return false;
      const GifColorType& color = colors->Colors[index];
      out[x * 3] = color.Red, out[x * 3 + 1] = color.Green, out[x * 3 + 2] = color.Blue;
    }
    return true;
  };
  constexpr int kOffset[] = {0, 4, 2, 1}, kStep[] = {8, 8, 4, 2};
  for (int pass = 0; pass < (frame.Interlace ? 4 : 1); ++pass) {
    for (int y = frame.Interlace ? kOffset[pass] : 0; y < frame.Height; y += frame.Interlace ? kStep[pass] : 1) {
      if (!read_line(y)) return broken("the picture ends early or names a colour that is not there");
    }
  }
  return 1;
}
}  // namespace nibble
