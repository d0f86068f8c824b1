// safetensors shards whose layout is known before their data: headers first, then every tensor at its place, in any order, over several runs.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "base/tensor.h"

namespace nibble {
struct PlannedTensor {
  std::string name;
  DType dtype = DType::bf16;
  Shape shape;
  int64_t bytes() const { return shape.count() * size_of(dtype); }
};

class ShardWriter {
 public:
  // Tensors are dealt to shards in the order given, each shard at most `max_shard_bytes` unless one tensor alone is larger.
  ShardWriter(std::filesystem::path folder, const std::vector<PlannedTensor>& tensors, int64_t max_shard_bytes);
  ShardWriter(const ShardWriter&) = delete;
  ~ShardWriter();

  int64_t total_bytes() const { return total_bytes_; }  // of tensor data
  int num_shards() const { return static_cast<int>(shards_.size()); }

  // Makes the files at full size, or takes those of an earlier run. Raises out_of_memory when the disk is too small.
  void open();
  void write(const std::string& name, const void* data, int64_t bytes);
  void sync();
  void write_index() const;  // with more than one shard

 private:
  struct Shard {
    std::string file, header;
    int64_t bytes = 0;
    int fd = -1;
  };
  struct Place {
    size_t shard;
    int64_t offset, bytes;  // in the file
  };
  std::filesystem::path folder_;
  std::vector<Shard> shards_;
  std::map<std::string, Place> places_;
  int64_t total_bytes_ = 0, total_elements_ = 0;
};
}  // namespace nibble
