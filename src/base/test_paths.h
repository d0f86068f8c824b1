// Where tests find their data. NIBBLE_REPO_DIR is a compile definition of every test target.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>

namespace nibble {
inline std::filesystem::path test_data(const std::string& name) {
  return std::filesystem::path(NIBBLE_REPO_DIR) / "tests/data" / name;
}

// Third-party data that the product does not ship; nullopt where it is absent, and the test skips.
inline std::optional<std::filesystem::path> shared_data(const std::string& name) {
  const char* dir = std::getenv("NIBBLE_SHARED_DIR");
  const std::filesystem::path path = std::filesystem::path(dir ? dir : NIBBLE_REPO_DIR "/../shared") / name;
  if (!std::filesystem::exists(path)) return std::nullopt;
  return path;
}
}  // namespace nibble

#define NB_SKIP_WITHOUT_SHARED(variable, name)              \
  const auto variable##_found = nibble::shared_data(name); \
  if (!variable##_found) GTEST_SKIP() << "not here: " << name << " (set NIBBLE_SHARED_DIR)"; \
  const std::filesystem::path& variable = *variable##_found
