#include "media/av_library.h"

#include <dlfcn.h>

#include "base/assert.h"

namespace nibble {
namespace {
#define NB_SONAME(library, version) "lib" #library ".so." AV_STRINGIFY(version)
constexpr const char* kAvutil = NB_SONAME(avutil, LIBAVUTIL_VERSION_MAJOR);
constexpr const char* kAvcodec = NB_SONAME(avcodec, LIBAVCODEC_VERSION_MAJOR);
constexpr const char* kAvformat = NB_SONAME(avformat, LIBAVFORMAT_VERSION_MAJOR);
constexpr const char* kSwscale = NB_SONAME(swscale, LIBSWSCALE_VERSION_MAJOR);

struct Loaded {
  AvLibrary functions{};
  std::string problem;  // empty: all there
};

Loaded load() {
  Loaded loaded;
  // Never closed: libraries of codecs do not like to be unloaded.
  const auto open = [&](const char* name) -> void* {
    if (!loaded.problem.empty()) return nullptr;
    void* library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
      loaded.problem = fmt::format("sound and video need FFmpeg's libraries, {} cannot be loaded; install them (Debian: libavformat{} libavcodec{} libswscale{})", name, LIBAVFORMAT_VERSION_MAJOR,
                                   LIBAVCODEC_VERSION_MAJOR, LIBSWSCALE_VERSION_MAJOR);
    }
    return library;
  };
  void* avutil = open(kAvutil);
  void* avcodec = open(kAvcodec);
  void* avformat = open(kAvformat);
  void* swscale = open(kSwscale);
  if (!loaded.problem.empty()) return loaded;
#define NB_AV_FIND(library, function)                                                                      \
  loaded.functions.function = reinterpret_cast<decltype(&::function)>(dlsym(library, #function)); \
  if (!loaded.functions.function) loaded.problem = "FFmpeg's lib" #library " has no " #function;
  NB_AV_FUNCTIONS(NB_AV_FIND)
#undef NB_AV_FIND
  if (loaded.problem.empty()) loaded.functions.av_log_set_level(AV_LOG_QUIET);
  return loaded;
}

const Loaded& loaded() {
  static const Loaded once = load();
  return once;
}
}  // namespace

Result<const AvLibrary*> load_av_library() {
  if (!loaded().problem.empty()) return fail(ErrorCode::unsupported, "{}", loaded().problem);
  return &loaded().functions;
}

const AvLibrary& av() {
  NB_ASSERT(loaded().problem.empty(), "libav is used without having been loaded");
  return loaded().functions;
}
}  // namespace nibble
