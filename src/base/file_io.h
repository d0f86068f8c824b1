// Whole files in and out. What is written appears under its final name only when it is complete.
#pragma once

#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

namespace nibble {
std::string read_file(const std::filesystem::path& path);  // raises not_found

// Writes beside `path` under a temporary name; commit() renames. Without commit() the temporary file is removed.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path path);  // raises when the folder cannot be written
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile();

  std::ostream& stream() { return out_; }
  void commit();  // raises on any write error (disk full), leaving no file behind

 private:
  std::filesystem::path path_, temporary_;
  std::ofstream out_;
  bool committed_ = false;
};

void write_file(const std::filesystem::path& path, std::string_view bytes);  // atomically
}  // namespace nibble
