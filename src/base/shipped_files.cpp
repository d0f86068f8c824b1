#include "base/shipped_files.h"

namespace nibble {
namespace fs = std::filesystem;

fs::path shipped_file(const char* installed, const char* in_source) {
  std::error_code error;
  const fs::path executable = fs::read_symlink("/proc/self/exe", error);
  const fs::path beside = error ? fs::path() : executable.parent_path().parent_path() / "share/nibble" / installed;
  if (!beside.empty() && fs::exists(beside, error)) return beside;
  const fs::path source = NIBBLE_SOURCE_DIR;  // empty in what is shipped
  return source.empty() ? beside : source / in_source;
}
}  // namespace nibble
