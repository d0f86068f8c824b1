#include "eval/run_folder.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <cctype>
#include <ctime>

#include "base/error.h"

namespace nibble {
std::filesystem::path make_run_folder(const std::filesystem::path& out, const std::string& kind, const std::string& name) {
  std::string safe = name.empty() ? "run" : name;
  for (char& c : safe) {
    if (!std::isalnum(static_cast<unsigned char>(c)) && c != '.' && c != '-') c = '-';
  }
  const std::string stem = fmt::format("{}_{}_{:%Y%m%d-%H%M%S}", kind, safe, fmt::localtime(std::time(nullptr)));
  std::error_code error;
  std::filesystem::create_directories(out, error);
  if (error) raise(ErrorCode::invalid_argument, "--out {}: {}", out.string(), error.message());
  for (int i = 1;; ++i) {
    const auto folder = out / (i == 1 ? stem : fmt::format("{}-{}", stem, i));
    if (std::filesystem::create_directory(folder, error)) return folder;
    if (error) raise(ErrorCode::invalid_argument, "--out {}: {}", out.string(), error.message());
  }
}

std::string iso_time_now() { return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr))); }
}  // namespace nibble
