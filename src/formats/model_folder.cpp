#include "formats/model_folder.h"

#include <cstdlib>

#include "base/error.h"
#include "base/file_io.h"
#include "base/shipped_files.h"

namespace nibble {
namespace fs = std::filesystem;

namespace {
fs::path cache_folder(const ModelLocation& location) {
  if (!location.download_dir.empty()) return location.download_dir;
  if (const char* home = std::getenv("HF_HOME")) return fs::path(home) / "hub";
  const char* home = std::getenv("HOME");
  return fs::path(home ? home : ".") / ".cache/huggingface/hub";
}

std::string trimmed(std::string text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ' || text.back() == '\r')) text.pop_back();
  return text;
}
}  // namespace

fs::path demo_model_folder() {
  if (const char* folder = std::getenv("NIBBLE_DEMO_DIR")) return folder;
  return shipped_file("demo", "models/demo");
}

fs::path find_model_folder(const ModelLocation& location) {
  const std::string& name = location.name;
  if (name == "demo" && !fs::exists(name)) {
    const fs::path folder = demo_model_folder();
    if (!fs::exists(folder / "config.json")) raise(ErrorCode::not_found, "{}: the demo model is not here; set NIBBLE_DEMO_DIR", folder.string());
    return folder;
  }
  if (fs::is_directory(name)) return name;
  const size_t slash = name.find('/');
  const bool repository_id = slash != std::string::npos && slash > 0 && slash + 1 < name.size() && name.find('/', slash + 1) == std::string::npos &&
                             name[0] != '.' && name[0] != '~';
  if (!repository_id) raise(ErrorCode::not_found, "{}: no such model folder", name);

  const fs::path repository = cache_folder(location) / ("models--" + name.substr(0, slash) + "--" + name.substr(slash + 1));
  const std::string revision = location.revision.empty() ? "main" : location.revision;
  const fs::path ref = repository / "refs" / revision;
  const std::string commit = fs::is_regular_file(ref) ? trimmed(read_file(ref)) : revision;
  const fs::path snapshot = repository / "snapshots" / commit;
  if (!fs::is_directory(snapshot)) {
    raise(ErrorCode::not_found, "{}: not in the local cache (looked for {}); fetch it with: hf download {}{}", name, snapshot.string(), name,
          location.revision.empty() ? "" : " --revision " + location.revision);
  }
  return snapshot;
}
}  // namespace nibble
