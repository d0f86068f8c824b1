#include "quant/shard_writer.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file_io.h"

namespace nibble {
using Json = nlohmann::ordered_json;

ShardWriter::ShardWriter(std::filesystem::path folder, const std::vector<PlannedTensor>& tensors, int64_t max_shard_bytes) : folder_(std::move(folder)) {
  std::vector<std::vector<PlannedTensor>> parts(1);
  int64_t part_bytes = 0;
  for (const PlannedTensor& t : tensors) {
    if (part_bytes > 0 && part_bytes + t.bytes() > max_shard_bytes) {
      parts.emplace_back();
      part_bytes = 0;
    }
    parts.back().push_back(t);
    part_bytes += t.bytes();
    total_bytes_ += t.bytes();
    // NVFP4 codes are two to a byte; an index counts stored elements.
    total_elements_ += t.shape.count();
  }
  for (size_t i = 0; i < parts.size(); ++i) {
    auto& part = parts[i];
    std::stable_sort(part.begin(), part.end(), [](const PlannedTensor& a, const PlannedTensor& b) {
      return size_of(a.dtype) != size_of(b.dtype) ? size_of(a.dtype) > size_of(b.dtype) : a.name < b.name;
    });
    Shard shard;
    shard.file = parts.size() == 1 ? "model.safetensors" : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, parts.size());
    Json header{{"__metadata__", {{"format", "pt"}}}};
    int64_t at = 0;
    for (const PlannedTensor& t : part) {
      Json dims = Json::array();
      for (int d = 0; d < t.shape.rank; ++d) dims.push_back(t.shape[d]);
      header[t.name] = {{"dtype", name_of(t.dtype)}, {"shape", dims}, {"data_offsets", {at, at + t.bytes()}}};
      at += t.bytes();
    }
    std::string text = header.dump();
    text.resize((text.size() + 7) / 8 * 8, ' ');
    const uint64_t length = text.size();
    shard.header.assign(reinterpret_cast<const char*>(&length), 8);
    shard.header += text;
    const int64_t base = static_cast<int64_t>(shard.header.size());
    shard.bytes = base + at;
    at = 0;
    for (const PlannedTensor& t : part) {
      if (!places_.emplace(t.name, Place{i, base + at, t.bytes()}).second) raise(ErrorCode::corrupt, "two tensors of the source map to {}", t.name);
      at += t.bytes();
    }
    shards_.push_back(std::move(shard));
  }
}

ShardWriter::~ShardWriter() {
  for (const Shard& shard : shards_) {
    if (shard.fd >= 0) ::close(shard.fd);
  }
}

void ShardWriter::open() {
  for (Shard& shard : shards_) {
    const std::string path = (folder_ / shard.file).string();
    shard.fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (shard.fd < 0) raise(ErrorCode::unavailable, "{}: {}", path, std::strerror(errno));
    // Not posix_fallocate: where the file system cannot, it would write every block once.
    const int status = ::fallocate(shard.fd, 0, 0, shard.bytes) == 0 ? 0 : errno;
    if (status == ENOSPC || status == EFBIG) raise(ErrorCode::out_of_memory, "{}: no room for {} bytes on the disk", path, shard.bytes);
    if (::ftruncate(shard.fd, shard.bytes) != 0) raise(ErrorCode::unavailable, "{}: {}", path, std::strerror(errno));
    int64_t done = 0;
    while (done < static_cast<int64_t>(shard.header.size())) {
      const ssize_t n = ::pwrite(shard.fd, shard.header.data() + done, shard.header.size() - static_cast<size_t>(done), done);
      if (n < 0) raise(ErrorCode::unavailable, "{}: {}", path, std::strerror(errno));
      done += n;
    }
  }
}

void ShardWriter::write(const std::string& name, const void* data, int64_t bytes) {
  const auto at = places_.find(name);
  NB_ASSERT(at != places_.end() && at->second.bytes == bytes, "a tensor that the plan does not have");
  const Place& place = at->second;
  int64_t done = 0;
  while (done < bytes) {
    const ssize_t n = ::pwrite(shards_[place.shard].fd, static_cast<const char*>(data) + done, static_cast<size_t>(bytes - done), place.offset + done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) raise(errno == ENOSPC ? ErrorCode::out_of_memory : ErrorCode::unavailable, "{}/{}: {} while writing {}", folder_.string(), shards_[place.shard].file, std::strerror(errno), name);
    done += n;
  }
}

void ShardWriter::sync() {
  for (const Shard& shard : shards_) {
    if (::fdatasync(shard.fd) != 0) raise(ErrorCode::unavailable, "{}/{}: {}", folder_.string(), shard.file, std::strerror(errno));
  }
}

void ShardWriter::write_index() const {
  if (shards_.size() == 1) return;
  Json index{{"metadata", {{"total_size", total_bytes_}, {"total_parameters", total_elements_}}}, {"weight_map", Json::object()}};
  for (const auto& [name, place] : places_) index["weight_map"][name] = shards_[place.shard].file;
  write_file(folder_ / "model.safetensors.index.json", index.dump(2) + "\n");
}
}  // namespace nibble
