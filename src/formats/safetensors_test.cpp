#include "formats/safetensors.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "base/file_io.h"
#include "base/test_paths.h"

namespace nibble {
namespace {
namespace fs = std::filesystem;

std::string file_of(std::string_view header, size_t data_bytes) {
  const uint64_t length = header.size();
  std::string out(reinterpret_cast<const char*>(&length), 8);
  out += header;
  out.append(data_bytes, '\0');
  return out;
}

std::string error_of(const auto& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.message;
  }
  return "no error";
}

std::string parse_error(std::string_view header, size_t data_bytes) {
  const std::string file = file_of(header, data_bytes);
  return error_of([&] { parse_safetensors(std::as_bytes(std::span(file)), "x.safetensors"); });
}

// A fresh empty folder, gone at the end of the test.
struct TemporaryFolder {
  fs::path path = fs::temp_directory_path() / ("nibble_test_" + std::to_string(::getpid()) + "_" + testing::UnitTest::GetInstance()->current_test_info()->name());
  TemporaryFolder() {
    fs::remove_all(path);
    fs::create_directories(path);
  }
  ~TemporaryFolder() { fs::remove_all(path); }
};

TEST(Safetensors, HeaderGivesViewsIntoTheFile) {
  const std::string file = file_of(
      R"({"__metadata__":{"format":"pt"},"a":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]},"s":{"dtype":"F32","shape":[],"data_offsets":[12,16]}})", 16);
  const auto tensors = parse_safetensors(std::as_bytes(std::span(file)), "x");
  ASSERT_EQ(tensors.size(), 2u);
  EXPECT_EQ(tensors.at("a").shape, (Shape{2, 3}));
  EXPECT_EQ(tensors.at("a").dtype, DType::bf16);
  EXPECT_EQ(tensors.at("s").shape.rank, 0);
  EXPECT_EQ(tensors.at("s").as<char>(), file.data() + file.size() - 4);
}

TEST(Safetensors, EveryBrokenFileIsNamedWithItsFault) {
  const std::string eight(8, '\0');
  EXPECT_EQ(error_of([&] { parse_safetensors(std::as_bytes(std::span(eight).first(3)), "x"); }), "x: 3 bytes are too few for a safetensors file");
  std::string long_header(8, '\0');
  long_header[0] = 100;
  EXPECT_EQ(error_of([&] { parse_safetensors(std::as_bytes(std::span(long_header)), "x"); }),
            "x: header of 100 bytes does not fit the file of 8 (not a safetensors file, or truncated)");
  EXPECT_EQ(parse_error("[1]", 0), "x.safetensors: the header is not a JSON object");
  EXPECT_EQ(parse_error("{\"a\":", 0), "x.safetensors: the header is not a JSON object");
  EXPECT_EQ(parse_error(R"({"a":{"dtype":"U8","shape":[2]}})", 2), "x.safetensors: tensor a: wants dtype, shape and data_offsets");
  EXPECT_EQ(parse_error(R"({"a":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}})", 2), "x.safetensors: tensor a: dtype F4 is not supported");
  EXPECT_EQ(parse_error(R"({"a":{"dtype":"U8","shape":[-2],"data_offsets":[0,1]}})", 2), "x.safetensors: tensor a: shape holds something other than sizes");
  EXPECT_EQ(parse_error(R"({"a":{"dtype":"F64","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0), "x.safetensors: tensor a: shape overflows");
  EXPECT_EQ(parse_error(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", 3),
            "x.safetensors: tensor a: bytes [0, 4) lie outside the 3 data bytes of the file (truncated?)");
  EXPECT_EQ(parse_error(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[3,1]}})", 8),
            "x.safetensors: tensor a: bytes [3, 1) lie outside the 8 data bytes of the file (truncated?)");
  EXPECT_EQ(parse_error(R"({"a":{"dtype":"BF16","shape":[4],"data_offsets":[0,4]}})", 8),
            "x.safetensors: tensor a: holds 4 bytes, its shape and dtype want 8");
  EXPECT_EQ(parse_error(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[3,7]}})", 8),
            "x.safetensors: tensors a and b overlap");
  EXPECT_EQ(parse_error(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})", 2),
            "x.safetensors: tensor a appears twice");
}

TEST(Safetensors, WhatIsWrittenIsReadBack) {
  const TemporaryFolder folder;
  std::vector<float> floats{1, 2, 3};
  std::vector<uint8_t> bytes{9, 8, 7, 6, 5};
  std::vector<uint16_t> halves{1, 2, 3, 4};
  write_safetensors(folder.path / "out.safetensors", {{"a.codes", {bytes.data(), DType::u8, {5}}},
                                                      {"b.plain", {halves.data(), DType::bf16, {2, 2}}},
                                                      {"c.scale", {floats.data(), DType::f32, {3}}},
                                                      {"d.none", {floats.data(), DType::f32, {0, 4}}}});
  const TensorFiles files = TensorFiles::open(folder.path);
  ASSERT_EQ(files.tensors().size(), 4u);
  EXPECT_EQ(files.total_bytes(), 5 + 8 + 12);
  const Tensor c = files.find("c.scale")->tensor, b = files.find("b.plain")->tensor, a = files.find("a.codes")->tensor;
  EXPECT_EQ(std::memcmp(c.data, floats.data(), 12), 0);
  EXPECT_EQ(std::memcmp(b.data, halves.data(), 8), 0);
  EXPECT_EQ(std::memcmp(a.data, bytes.data(), 5), 0);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(c.data) % 8, 0u) << "the data begins at a multiple of 8";
  EXPECT_LT(c.data, b.data) << "falling element size";
  EXPECT_LT(b.data, a.data);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path), fs::directory_iterator()), 1) << "no temporary file is left";
}

TEST(Safetensors, ShardsAndTheirIndexMustAgree) {
  const TemporaryFolder folder;
  uint8_t byte = 1;
  const Tensor one{&byte, DType::u8, {1}};
  EXPECT_EQ(error_of([&] { TensorFiles::open(folder.path); }), folder.path.string() + ": no *.safetensors in this folder");
  write_safetensors(folder.path / "m-1.safetensors", {{"a", one}});
  write_safetensors(folder.path / "m-2.safetensors", {{"b", one}});
  EXPECT_EQ(TensorFiles::open(folder.path).tensors().size(), 2u);

  const fs::path index = folder.path / "model.safetensors.index.json";
  write_file(index, R"({"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}})");
  EXPECT_EQ(TensorFiles::open(folder.path).find("b")->file, "m-2.safetensors");
  write_file(index, R"({"weight_map": {"a": "m-1.safetensors", "c": "m-2.safetensors"}})");
  EXPECT_EQ(error_of([&] { TensorFiles::open(folder.path); }), "the index places tensor c in m-2.safetensors, which does not hold it");
  write_file(index, R"({"weight_map": {"a": "../m-1.safetensors"}})");
  EXPECT_EQ(error_of([&] { TensorFiles::open(folder.path); }), index.string() + ": weight_map of a: '../m-1.safetensors' is not a file of this folder");
  write_file(index, R"({"weight_map": [1]})");
  EXPECT_EQ(error_of([&] { TensorFiles::open(folder.path); }), index.string() + ": wants an object with a weight_map");

  fs::remove(index);
  write_safetensors(folder.path / "m-3.safetensors", {{"a", one}});
  EXPECT_EQ(error_of([&] { TensorFiles::open(folder.path); }), "tensor a lies in both m-1.safetensors and m-3.safetensors");
  EXPECT_EQ(error_of([&] { TensorFiles::open(folder.path / "none"); }), (folder.path / "none").string() + ": no such file or folder");
}

TEST(Safetensors, EveryShippedCheckpointOpens) {
  for (const char* name : {"quant/seed0/base", "quant/seed0/nvfp4_mse", "quant/seed1/fp8_max", "quant/seed2/nvfp4_mse", "model/tiny", "model/tiny-realdims"}) {
    EXPECT_GT(TensorFiles::open(test_data(name)).tensors().size(), 20u) << name;
  }
}
}  // namespace
}  // namespace nibble
