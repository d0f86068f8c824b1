#include "formats/model_folder.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>

#include "base/error.h"
#include "base/file_io.h"

namespace nibble {
namespace {
namespace fs = std::filesystem;

class ModelFolder : public testing::Test {
 protected:
  void SetUp() override {
    cache_ = fs::temp_directory_path() / ("nibble_cache_" + std::to_string(::getpid()));
    repository_ = cache_ / "models--google--gemma-4-12b-it";
    fs::create_directories(repository_ / "refs");
    fs::create_directories(repository_ / "snapshots/abc123");
    write_file(repository_ / "refs/main", "abc123\n");
  }
  void TearDown() override {
    fs::remove_all(cache_);
    ::unsetenv("NIBBLE_DEMO_DIR");
    ::unsetenv("HF_HOME");
  }
  std::string error_of(const ModelLocation& location) {
    try {
      find_model_folder(location);
    } catch (const Error& error) {
      return error.message;
    }
    return "no error";
  }
  fs::path cache_, repository_;
};

TEST_F(ModelFolder, RepositoryIdIsFoundThroughItsRef) {
  EXPECT_EQ(find_model_folder({.name = "google/gemma-4-12b-it", .revision = "", .download_dir = cache_.string()}), repository_ / "snapshots/abc123");
  EXPECT_EQ(find_model_folder({.name = "google/gemma-4-12b-it", .revision = "abc123", .download_dir = cache_.string()}), repository_ / "snapshots/abc123");
}

TEST_F(ModelFolder, HfHomeNamesTheCache) {
  fs::create_directories(cache_ / "hub/models--a--b/snapshots/main");
  ::setenv("HF_HOME", cache_.c_str(), 1);
  EXPECT_EQ(find_model_folder({.name = "a/b", .revision = "", .download_dir = ""}), cache_ / "hub/models--a--b/snapshots/main");
}

TEST_F(ModelFolder, WhatIsNotThereIsNamedWithTheCommandThatFetchesIt) {
  EXPECT_EQ(error_of({.name = "google/other", .revision = "v2", .download_dir = cache_.string()}),
            "google/other: not in the local cache (looked for " + (cache_ / "models--google--other/snapshots/v2").string() +
                "); fetch it with: hf download google/other --revision v2");
  EXPECT_EQ(error_of({.name = "./nowhere/model", .revision = "", .download_dir = ""}), "./nowhere/model: no such model folder");
  EXPECT_EQ(error_of({.name = "/nowhere/at/all", .revision = "", .download_dir = ""}), "/nowhere/at/all: no such model folder");
}

TEST_F(ModelFolder, FoldersAndDemoAreTakenAsTheyAre) {
  EXPECT_EQ(find_model_folder({.name = cache_.string(), .revision = "", .download_dir = ""}), cache_);
  ::setenv("NIBBLE_DEMO_DIR", cache_.c_str(), 1);
  EXPECT_EQ(error_of({.name = "demo", .revision = "", .download_dir = ""}), cache_.string() + ": the demo model is not here; set NIBBLE_DEMO_DIR");
  write_file(cache_ / "config.json", "{}");
  EXPECT_EQ(find_model_folder({.name = "demo", .revision = "", .download_dir = ""}), cache_);
}
}  // namespace
}  // namespace nibble
