#include "base/file_io.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <iterator>

#include "base/error.h"

namespace nibble {
std::string read_file(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in || std::filesystem::is_directory(path)) raise(ErrorCode::not_found, "{}: cannot read: {}", path.string(), std::strerror(errno));
  return std::string(std::istreambuf_iterator<char>(in), {});
}

AtomicFile::AtomicFile(std::filesystem::path path)
    : path_(std::move(path)), temporary_(path_.string() + ".tmp." + std::to_string(::getpid())), out_(temporary_, std::ios::binary) {
  if (!out_) raise(ErrorCode::invalid_argument, "{}: cannot write: {}", temporary_.string(), std::strerror(errno));
}

AtomicFile::~AtomicFile() {
  if (committed_) return;
  out_.close();
  std::error_code ignored;
  std::filesystem::remove(temporary_, ignored);
}

void AtomicFile::commit() {
  out_.close();
  if (!out_) raise(ErrorCode::internal, "{}: write failed (disk full?): {}", path_.string(), std::strerror(errno));
  std::filesystem::rename(temporary_, path_);
  committed_ = true;
}

void write_file(const std::filesystem::path& path, std::string_view bytes) {
  AtomicFile file(path);
  file.stream().write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  file.commit();
}
}  // namespace nibble
