#include "app/crash_dump.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/assert.h"
#include "base/error.h"

namespace nibble {
namespace {
constexpr std::array kSignals{SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT};

// What a signal handler may touch: no allocation, no lock but one that is tried.
struct State {
  std::atomic<RecentRequests*> requests{nullptr};
  std::atomic_flag written;
  std::array<char, 3072> folder{}, version{};
};
State& state() {
  static State s;
  return s;
}

// Text put together in place.
template <size_t kSize>
class Line {
 public:
  Line& operator<<(const char* text) {
    for (; *text && size_ + 1 < kSize; ++text) text_[size_++] = *text;
    return *this;
  }
  Line& operator<<(int64_t number) {
    std::array<char, 24> digits{};
    size_t n = digits.size() - 1;
    do {
      digits[--n] = static_cast<char>('0' + number % 10);
      number /= 10;
    } while (number > 0 && n > 0);
    return *this << &digits[n];
  }
  const char* c_str() const { return text_.data(); }
  size_t size() const { return size_; }

 private:
  std::array<char, kSize> text_{};
  size_t size_ = 0;
};

// `reason` stands in JSON as it is. False: not written. Safe in a signal handler.
bool write_dump(const char* reason, Line<4096>& path) {
  State& s = state();
  RecentRequests* requests = s.requests.load();
  if (!requests || s.written.test_and_set()) return false;
  const int64_t now = std::time(nullptr), pid = getpid();
  path << s.folder.data() << "/nibble-crash-" << now << "-" << pid << ".jsonl";
  Line<4096> temporary;
  temporary << path.c_str() << ".tmp";
  const int fd = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);  // requests hold what users wrote
  if (fd < 0) return false;
  Line<4096> head;
  head << R"({"event":"crash","reason":")" << reason << R"(","version":")" << s.version.data() << R"(","unix_seconds":)" << now << R"(,"pid":)" << pid << "}\n";
  bool good = ::write(fd, head.c_str(), head.size()) == static_cast<ssize_t>(head.size());
  good = requests->write_to(fd) && good;  // what could be written stays, whatever failed
  ::close(fd);
  return ::rename(temporary.c_str(), path.c_str()) == 0 && good;
}

void on_signal(int signal) {
  const char* name = signal == SIGSEGV ? "SIGSEGV" : signal == SIGBUS ? "SIGBUS" : signal == SIGILL ? "SIGILL" : signal == SIGFPE ? "SIGFPE" : "SIGABRT";
  Line<4096> path, said;
  if (write_dump(name, path)) {
    said << "the process dies of " << name << "; the requests of the last minutes are in " << path.c_str() << "\n";
    [[maybe_unused]] const ssize_t ignored = ::write(STDERR_FILENO, said.c_str(), said.size());
  }
  std::raise(signal);  // SA_RESETHAND: now it ends the process
}

// Inside the quotes of JSON.
std::string quoted(const std::string& text) {
  const std::string json = nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  return json.substr(1, json.size() - 2);
}
}  // namespace

CrashDump::CrashDump(const std::string& folder, const std::string& version) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  const std::string probe = folder + "/nibble-crash-probe-" + std::to_string(getpid());
  const int fd = error ? -1 : ::open(probe.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) raise(ErrorCode::unavailable, "--crash-dump-folder {}: {}", folder, error ? error.message() : std::strerror(errno));
  ::close(fd);
  ::unlink(probe.c_str());
  State& s = state();
  const std::string absolute = std::filesystem::absolute(folder).string();
  if (absolute.size() + 64 > s.folder.size()) raise(ErrorCode::unavailable, "--crash-dump-folder {}: the path is too long", folder);
  NB_ASSERT(!s.requests.load(), "one crash dump in a process");
  std::strcpy(s.folder.data(), absolute.c_str());
  std::strncpy(s.version.data(), quoted(version).c_str(), s.version.size() - 1);
  s.requests = &requests_;
  for (const int signal : kSignals) {
    struct sigaction action{};
    action.sa_handler = on_signal;
    action.sa_flags = static_cast<int>(SA_RESETHAND | SA_NODEFER);
    sigaction(signal, &action, nullptr);
  }
}

CrashDump::~CrashDump() {
  for (const int signal : kSignals) std::signal(signal, SIG_DFL);
  state().requests = nullptr;
}

std::string CrashDump::write(const std::string& reason) {
  Line<4096> path;
  return write_dump(quoted(reason.substr(0, 1000)).c_str(), path) ? path.c_str() : "";
}
}  // namespace nibble
