#include "formats/safetensors.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "base/file_io.h"

namespace nibble {
using nlohmann::json;

namespace {
constexpr uint64_t kMaxHeaderBytes = 100ull << 20;

// The header as a DOM; a repeated tensor name is an error, where the parser by itself would keep the last.
json parse_header(std::string_view text, std::string_view file) {
  std::set<std::string> seen;
  std::string repeated;
  const json::parser_callback_t watch = [&](int depth, json::parse_event_t event, json& value) {
    if (depth > 8) raise(ErrorCode::corrupt, "{}: header nests deeper than 8", file);
    if (event == json::parse_event_t::key && depth == 1 && !seen.insert(value.get<std::string>()).second) repeated = value.get<std::string>();
    return true;
  };
  json header = json::parse(text, watch, /*allow_exceptions=*/false);
  if (header.is_discarded() || !header.is_object()) raise(ErrorCode::corrupt, "{}: the header is not a JSON object", file);
  if (!repeated.empty()) raise(ErrorCode::corrupt, "{}: tensor {} appears twice", file, repeated);
  return header;
}

Tensor parse_entry(const std::string& name, const json& entry, std::span<const std::byte> data, std::string_view file) {
  const auto bad = [&](std::string_view what) { raise(ErrorCode::corrupt, "{}: tensor {}: {}", file, name, what); };
  if (!entry.is_object() || !entry.contains("dtype") || !entry.contains("shape") || !entry.contains("data_offsets")) {
    bad("wants dtype, shape and data_offsets");
  }
  if (!entry["dtype"].is_string()) bad("dtype is not a string");
  const auto dtype = dtype_from_name(entry["dtype"].get_ref<const std::string&>());
  if (!dtype) bad(fmt::format("dtype {} is not supported", entry["dtype"].get_ref<const std::string&>()));

  const json& dims = entry["shape"];
  if (!dims.is_array() || dims.size() > Shape::kMaxRank) bad(fmt::format("shape must be an array of at most {} dimensions", int{Shape::kMaxRank}));
  Shape shape;
  uint64_t bytes = static_cast<uint64_t>(size_of(*dtype));
  for (const json& dim : dims) {
    if (!dim.is_number_unsigned()) bad("shape holds something other than sizes");
    const uint64_t size = dim.get<uint64_t>();
    if (__builtin_mul_overflow(bytes, size, &bytes) || bytes > (uint64_t{1} << 62)) bad("shape overflows");
    shape.dims[shape.rank++] = static_cast<int64_t>(size);
  }

  const json& offsets = entry["data_offsets"];
  if (!offsets.is_array() || offsets.size() != 2 || !offsets[0].is_number_unsigned() || !offsets[1].is_number_unsigned()) {
    bad("data_offsets must be two sizes");
  }
  const uint64_t begin = offsets[0].get<uint64_t>(), end = offsets[1].get<uint64_t>();
  if (begin > end || end > data.size()) bad(fmt::format("bytes [{}, {}) lie outside the {} data bytes of the file (truncated?)", begin, end, data.size()));
  if (end - begin != bytes) bad(fmt::format("holds {} bytes, its shape and dtype want {}", end - begin, bytes));
  return {const_cast<std::byte*>(data.data() + begin), *dtype, shape};
}
}  // namespace

std::map<std::string, Tensor> parse_safetensors(std::span<const std::byte> bytes, std::string_view file) {
  if (bytes.size() < 8) raise(ErrorCode::corrupt, "{}: {} bytes are too few for a safetensors file", file, bytes.size());
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), 8);
  if (header_bytes > kMaxHeaderBytes || header_bytes > bytes.size() - 8) {
    raise(ErrorCode::corrupt, "{}: header of {} bytes does not fit the file of {} (not a safetensors file, or truncated)", file, header_bytes, bytes.size());
  }
  const json header = parse_header({reinterpret_cast<const char*>(bytes.data()) + 8, header_bytes}, file);
  const std::span<const std::byte> data = bytes.subspan(8 + header_bytes);

  std::map<std::string, Tensor> tensors;
  std::vector<std::pair<const std::byte*, const std::string*>> begins;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    const auto at = tensors.emplace(name, parse_entry(name, entry, data, file)).first;
    if (at->second.bytes() > 0) begins.emplace_back(at->second.as<std::byte>(), &at->first);
  }
  std::sort(begins.begin(), begins.end());
  for (size_t i = 1; i < begins.size(); ++i) {
    if (begins[i - 1].first + tensors[*begins[i - 1].second].bytes() > begins[i].first) {
      raise(ErrorCode::corrupt, "{}: tensors {} and {} overlap", file, *begins[i - 1].second, *begins[i].second);
    }
  }
  return tensors;
}

namespace {
// Shard file name -> names the index expects there; empty when the folder has no index.
std::map<std::string, std::vector<std::string>> read_index(const std::filesystem::path& path) {
  std::map<std::string, std::vector<std::string>> files;
  const json index = json::parse(read_file(path), nullptr, false);
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    raise(ErrorCode::corrupt, "{}: wants an object with a weight_map", path.string());
  }
  for (const auto& [name, file] : index["weight_map"].items()) {
    if (!file.is_string()) raise(ErrorCode::corrupt, "{}: weight_map of {} is not a file name", path.string(), name);
    const std::string& text = file.get_ref<const std::string&>();
    if (text.empty() || text.find('/') != std::string::npos || text == "..") {
      raise(ErrorCode::corrupt, "{}: weight_map of {}: '{}' is not a file of this folder", path.string(), name, text);
    }
    files[text].push_back(name);
  }
  return files;
}
}  // namespace

TensorFiles TensorFiles::open(const std::filesystem::path& where) {
  std::map<std::string, std::vector<std::string>> wanted;
  std::filesystem::path folder = where;
  if (std::filesystem::is_directory(where)) {
    const auto index = where / "model.safetensors.index.json";
    if (std::filesystem::exists(index)) {
      wanted = read_index(index);
    } else {
      for (const auto& entry : std::filesystem::directory_iterator(where)) {
        if (entry.path().extension() == ".safetensors") wanted[entry.path().filename().string()];
      }
    }
    if (wanted.empty()) raise(ErrorCode::not_found, "{}: no *.safetensors in this folder", where.string());
  } else {
    if (!std::filesystem::exists(where)) raise(ErrorCode::not_found, "{}: no such file or folder", where.string());
    folder = where.parent_path();
    wanted[where.filename().string()];
  }

  TensorFiles all;
  for (const auto& [file, names] : wanted) {
    const MappedFile& mapped = all.files_.emplace_back(folder / file);
    for (auto& [name, tensor] : parse_safetensors(mapped.bytes(), file)) {
      const auto [at, fresh] = all.tensors_.emplace(name, StoredTensor{tensor, file});
      if (!fresh) raise(ErrorCode::corrupt, "tensor {} lies in both {} and {}", name, at->second.file, file);
    }
    for (const std::string& name : names) {
      if (const StoredTensor* found = all.find(name); !found || found->file != file) {
        raise(ErrorCode::corrupt, "the index places tensor {} in {}, which does not hold it", name, file);
      }
    }
  }
  return all;
}

const StoredTensor* TensorFiles::find(const std::string& name) const {
  const auto at = tensors_.find(name);
  return at == tensors_.end() ? nullptr : &at->second;
}

int64_t TensorFiles::total_bytes() const {
  int64_t bytes = 0;
  for (const auto& [name, stored] : tensors_) bytes += stored.tensor.bytes();
  return bytes;
}

void TensorFiles::will_need() const {
  for (const MappedFile& file : files_) file.will_need();
}

void write_safetensors(const std::filesystem::path& path, const std::map<std::string, Tensor>& tensors) {
  std::vector<const std::pair<const std::string, Tensor>*> order;
  for (const auto& item : tensors) order.push_back(&item);
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    const int64_t size_a = size_of(a->second.dtype), size_b = size_of(b->second.dtype);
    return size_a != size_b ? size_a > size_b : a->first < b->first;
  });
  nlohmann::ordered_json header;
  header["__metadata__"] = {{"format", "pt"}};
  int64_t at = 0;
  for (const auto* item : order) {
    const Tensor& tensor = item->second;
    header[item->first] = {{"dtype", name_of(tensor.dtype)},
                           {"shape", std::vector<int64_t>(tensor.shape.dims.begin(), tensor.shape.dims.begin() + tensor.shape.rank)},
                           {"data_offsets", {at, at + tensor.bytes()}}};
    at += tensor.bytes();
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  AtomicFile file(path);
  const uint64_t length = text.size();
  file.stream().write(reinterpret_cast<const char*>(&length), 8);
  file.stream() << text;
  for (const auto* item : order) file.stream().write(item->second.as<char>(), item->second.bytes());
  file.commit();
}
}  // namespace nibble
