// Where the files are that come with the program: installed beside it, or in the source tree it was built from.
#pragma once

#include <filesystem>

namespace nibble {
// share/nibble/INSTALLED beside the executable's bin/, else IN_SOURCE of the source tree. It need not exist.
std::filesystem::path shipped_file(const char* installed, const char* in_source);
}  // namespace nibble
