// safetensors: tensors in files, mapped and never copied.
//
// A file is 8 bytes of little-endian header length H, H bytes of JSON {"name": {"dtype", "shape", "data_offsets": [begin, end)}, ...},
// then the data; offsets count from byte 8 + H. A folder holds one `model.safetensors` or shards named by `model.safetensors.index.json`.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/mmap.h"
#include "base/tensor.h"

namespace nibble {
struct StoredTensor {
  Tensor tensor;     // a read-only view of the mapped file
  std::string file;  // the file's name, for messages
};

// What one file's header says, checked against the file's size: every offset in range, every length equal to the product of its shape,
// no overlaps, no name twice. Raises corrupt, naming `file` and the tensor.
std::map<std::string, Tensor> parse_safetensors(std::span<const std::byte> file_bytes, std::string_view file);

// All tensors of one file or one folder.
class TensorFiles {
 public:
  // A folder: its index if there is one, else all *.safetensors. A name in two files, or in the index but in no file, is an error.
  static TensorFiles open(const std::filesystem::path& folder_or_file);

  const std::map<std::string, StoredTensor>& tensors() const { return tensors_; }
  const StoredTensor* find(const std::string& name) const;
  int64_t total_bytes() const;
  void will_need() const;  // asks the kernel to read ahead

 private:
  std::vector<MappedFile> files_;
  std::map<std::string, StoredTensor> tensors_;
};

// Writes one file, atomically: header padded so that the data starts at a multiple of 8, tensors by falling element size, then by name.
void write_safetensors(const std::filesystem::path& path, const std::map<std::string, Tensor>& tensors);
}  // namespace nibble
