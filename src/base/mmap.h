// A file mapped read-only into memory; its pages come from the page cache and cost no copy.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>

namespace nibble {
class MappedFile {
 public:
  MappedFile() = default;
  explicit MappedFile(const std::filesystem::path& path);  // raises not_found or corrupt (not a regular file), naming the path
  MappedFile(MappedFile&& other) noexcept { *this = std::move(other); }
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {static_cast<const std::byte*>(data_), size_}; }
  const std::filesystem::path& path() const { return path_; }
  void will_need() const;  // asks the kernel to read ahead all of it

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
  std::filesystem::path path_;
};
}  // namespace nibble
