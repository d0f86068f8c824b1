#include "quant/journal.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file_io.h"

namespace nibble {
namespace {
using Json = nlohmann::ordered_json;

std::string line_of(const std::string& name, const QuantError& e) {
  return Json{{"name", name}, {"weight_sq", e.weight_sq}, {"error_sq", e.error_sq}, {"max_error_sq", e.max_error_sq}, {"zeros", e.zeros}, {"saturated", e.saturated}, {"blocks", e.blocks}, {"moved_blocks", e.moved_blocks}}.dump() + "\n";
}
}  // namespace

Journal::Journal(std::filesystem::path path, const std::string& fingerprint) : path_(std::move(path)) {
  const std::string lock_path = path_.string() + ".lock";
  lock_ = ::open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (lock_ < 0 || ::flock(lock_, LOCK_EX | LOCK_NB) != 0) {
    if (lock_ >= 0) ::close(lock_);
    lock_ = -1;
    raise(ErrorCode::unavailable, "{}: another process is writing this folder", path_.parent_path().string());
  }
  std::ifstream in(path_);
  std::string line, text = fingerprint + "\n";
  if (std::getline(in, line) && line == fingerprint) {
    while (std::getline(in, line)) {
      const Json j = Json::parse(line, nullptr, false);
      if (!j.is_object() || !j.contains("moved_blocks")) break;
      done_[j["name"]] = {j["weight_sq"], j["error_sq"], j["max_error_sq"], j["zeros"], j["saturated"], j["blocks"], j["moved_blocks"]};
      text += line + "\n";
    }
  }
  in.close();
  write_file(path_, text);  // written anew, so that a cut line is gone
  out_.open(path_, std::ios::app);
}

Journal::~Journal() {
  if (lock_ >= 0) ::close(lock_);
}

std::optional<QuantError> Journal::find(const std::string& tensor) const {
  const auto at = done_.find(tensor);
  return at == done_.end() ? std::nullopt : std::optional(at->second);
}

void Journal::add(const std::string& tensor, const QuantError& error) { pending_ += line_of(tensor, error); }

void Journal::flush() {
  out_ << pending_;
  out_.flush();
  if (!out_) raise(ErrorCode::unavailable, "{}: cannot be written (disk full?)", path_.string());
  pending_.clear();
}
}  // namespace nibble
