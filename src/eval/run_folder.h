// Where a run's files go: <out>/<kind>_<name>_<YYYYMMDD-HHMMSS>/.
#pragma once

#include <filesystem>
#include <string>

namespace nibble {
// Made anew; a suffix -2, -3 keeps two runs of one second apart. Characters of `name` that do not suit a file name become '-'.
std::filesystem::path make_run_folder(const std::filesystem::path& out, const std::string& kind, const std::string& name);
std::string iso_time_now();  // "2026-01-31T12:34:56Z"
}  // namespace nibble
