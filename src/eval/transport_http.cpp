#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <map>
#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "eval/timers.h"
#include "eval/transport.h"

namespace nibble {
int64_t monotonic_ns() { return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

HttpAddress parse_base_url(const std::string& url) {
  std::string rest = url;
  if (rest.starts_with("https://")) raise(ErrorCode::unsupported, "--base-url {}: wanted http://; put a local proxy in front of a TLS server", url);
  if (rest.starts_with("http://")) rest = rest.substr(7);
  HttpAddress out;
  const size_t slash = std::min(rest.find('/'), rest.size());
  std::string authority = rest.substr(0, slash);
  out.prefix = rest.substr(slash);
  while (out.prefix.ends_with('/')) out.prefix.pop_back();
  if (out.prefix.ends_with("/v1")) out.prefix.resize(out.prefix.size() - 3);
  const size_t colon = authority.rfind(':');
  const bool has_port = colon != std::string::npos && authority.find(']', colon) == std::string::npos;
  out.port = has_port ? authority.substr(colon + 1) : "80";
  out.host = has_port ? authority.substr(0, colon) : authority;
  if (out.host.starts_with('[') && out.host.ends_with(']')) out.host = out.host.substr(1, out.host.size() - 2);
  if (out.host.empty() || out.port.empty() || out.port.find_first_not_of("0123456789") != std::string::npos) {
    raise(ErrorCode::invalid_argument, "--base-url {}: wanted http://host:port", url);
  }
  return out;
}

namespace {
// The body of an answer, out of its transfer coding.
class BodyReader {
 public:
  enum class State { head, sized, chunk_size, chunk_data, chunk_end, trailer, until_close, done, bad };

  State state = State::head;
  int status = 0;
  bool keep_alive = true;

  // Consumes `bytes` up to the end of the answer; `take` gets the body's stretches.
  template <typename Take>
  void push(std::string_view bytes, const Take& take) {
    while (!bytes.empty() && state != State::done && state != State::bad) {
      switch (state) {
        case State::head:
        case State::chunk_size:
        case State::chunk_end:
        case State::trailer: {
          const size_t end = bytes.find('\n');
          line_.append(bytes.substr(0, end == std::string_view::npos ? bytes.size() : end));
          if (line_.size() > 65536) state = State::bad;
          if (end == std::string_view::npos) return;
          bytes.remove_prefix(end + 1);
          if (line_.ends_with('\r')) line_.pop_back();
          line(std::exchange(line_, {}));
          break;
        }
        case State::sized:
        case State::chunk_data: {
          const auto n = std::min<size_t>(bytes.size(), static_cast<size_t>(left_));
          take(bytes.substr(0, n));
          bytes.remove_prefix(n);
          left_ -= static_cast<int64_t>(n);
          if (left_ == 0) state = state == State::sized ? State::done : State::chunk_end;
          break;
        }
        case State::until_close:
          take(bytes);
          return;
        case State::done:
        case State::bad: return;
      }
    }
  }

 private:
  void line(std::string text) {
    if (state == State::chunk_end) {
      state = text.empty() ? State::chunk_size : State::bad;
    } else if (state == State::trailer) {
      if (text.empty()) state = State::done;
    } else if (state == State::chunk_size) {
      const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), left_, 16);
      state = error != std::errc() || left_ < 0 ? State::bad : left_ == 0 ? State::trailer : State::chunk_data;
    } else if (status == 0) {
      if (!text.starts_with("HTTP/1.") || text.size() < 12) {
        state = State::bad;
        return;
      }
      keep_alive = text[7] == '1';
      std::from_chars(text.data() + 9, text.data() + 12, status);
    } else if (text.empty()) {
      if (status >= 100 && status < 200) {  // 100 Continue: the answer follows
        status = 0;
        return;
      }
      state = chunked_ ? State::chunk_size : length_ < 0 ? State::until_close : length_ == 0 ? State::done : State::sized;
      left_ = length_;
    } else {
      const size_t colon = text.find(':');
      if (colon == std::string::npos) return;
      std::string name = text.substr(0, colon), value = text.substr(colon + 1);
      for (std::string* s : {&name, &value}) {
        for (char& c : *s) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
      }
      value.erase(0, value.find_first_not_of(' '));
      if (name == "content-length") std::from_chars(value.data(), value.data() + value.size(), length_);
      if (name == "transfer-encoding") chunked_ = value.find("chunked") != std::string::npos;
      if (name == "connection" && value == "close") keep_alive = false;
    }
  }

  std::string line_;
  int64_t length_ = -1, left_ = 0;
  bool chunked_ = false;
};

class HttpTransport final : public Transport {
 public:
  HttpTransport(const HttpAddress& address, const HttpClientOptions& options) : address_(address), options_(options), epoll_(epoll_create1(EPOLL_CLOEXEC)) {
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    if (const int code = getaddrinfo(address.host.c_str(), address.port.c_str(), &hints, &found_)) {
      raise(ErrorCode::unavailable, "{}:{}: {}", address.host, address.port, gai_strerror(code));
    }
  }
  ~HttpTransport() override {
    for (auto& [fd, c] : connections_) ::close(fd);
    if (found_) freeaddrinfo(found_);
    ::close(epoll_);
  }
  HttpTransport(const HttpTransport&) = delete;
  HttpTransport& operator=(const HttpTransport&) = delete;

  void start(HttpCall call) override {
    ++in_flight_;
    begin(std::make_unique<HttpCall>(std::move(call)), /*retried=*/false);
  }

  void at(int64_t when_ns, std::function<void()> work) override { timers_.add(when_ns, std::move(work)); }

  void run(const std::function<void()>& poll) override {
    std::array<epoll_event, 64> events;
    int64_t next_sweep = 0;
    while (true) {
      timers_.run_due(monotonic_ns());
      if (poll) poll();
      if (in_flight_ == 0 && timers_.empty()) return;
      const int64_t now = monotonic_ns(), until = std::min(timers_.next(now + 100'000'000), now + 100'000'000);
      // Rounded down, then polled: epoll's clock is in milliseconds, timers want better.
      const int n = epoll_wait(epoll_, events.data(), static_cast<int>(events.size()), until <= now ? 0 : static_cast<int>((until - now) / 1'000'000));
      if (n > 0) read_wall_clock();
      for (int i = 0; i < n; ++i) {
        const auto at = connections_.find(events[static_cast<size_t>(i)].data.fd);
        if (at != connections_.end()) ready(*at->second, events[static_cast<size_t>(i)].events);
      }
      if (n > 0 && in_flight_ > 1) rest();
      if (now > next_sweep) {
        expire(now);
        next_sweep = now + 100'000'000;
      }
    }
  }

  void cancel_all() override {
    timers_.clear();
    std::vector<Connection*> busy;
    for (auto& [fd, c] : connections_) {
      if (c->call) busy.push_back(c.get());
    }
    for (Connection* c : busy) finish(*c, "cancelled");
  }

 private:
  struct Connection {
    int fd = -1;
    bool connected = false, fresh = true, got_bytes = false, retried = false;
    int64_t opened_ns = 0, last_ns = 0;
    std::string unsent;
    size_t sent = 0;
    std::unique_ptr<HttpCall> call;
    BodyReader reader;
    HttpOutcome outcome;
  };

  void begin(std::unique_ptr<HttpCall> call, bool retried) {
    std::string head = fmt::format("{} {}{} HTTP/1.1\r\nHost: {}:{}\r\nAuthorization: Bearer {}\r\nAccept: */*\r\n", call->method, address_.prefix, call->target, address_.host, address_.port,
                                   options_.api_key);
    if (call->method != "GET") head += fmt::format("Content-Type: application/json\r\nContent-Length: {}\r\n", call->body.size());
    Connection* c = nullptr;
    if (!idle_.empty() && !retried) {
      c = connections_.at(idle_.back()).get();
      idle_.pop_back();
    } else {
      c = open();
    }
    if (!c) {
      HttpOutcome outcome;
      outcome.error = fmt::format("cannot connect to {}:{}: {}", address_.host, address_.port, std::strerror(errno));
      --in_flight_;
      // From run(), never from inside start(): callers may start calls in on_done.
      ++in_flight_;
      timers_.add(0, [this, call = std::shared_ptr<HttpCall>(std::move(call)), outcome]() mutable {
        --in_flight_;
        call->on_done(std::move(outcome));
      });
      return;
    }
    c->unsent = head + "\r\n" + call->body;
    c->sent = 0;
    c->call = std::move(call);
    c->reader = {};
    c->outcome = {};
    c->got_bytes = false;
    c->retried = retried;
    c->last_ns = monotonic_ns();
    if (c->connected) {
      c->outcome.start_ns = monotonic_ns();
      send(*c);
    }
  }

  Connection* open() {
    const addrinfo& a = *found_;
    const int fd = ::socket(a.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return nullptr;
    const int one = 1;
    ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    ::setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &one, sizeof one);
    if (::connect(fd, a.ai_addr, a.ai_addrlen) != 0 && errno != EINPROGRESS) {
      ::close(fd);
      return nullptr;
    }
    auto c = std::make_unique<Connection>();
    c->fd = fd;
    c->opened_ns = monotonic_ns();
    epoll_event event{};
    event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP;
    event.data.fd = fd;
    epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event);
    return (connections_[fd] = std::move(c)).get();
  }

  void want(Connection& c, bool write) {
    epoll_event event{};
    event.events = EPOLLIN | EPOLLRDHUP | (write ? uint32_t{EPOLLOUT} : 0u);
    event.data.fd = c.fd;
    epoll_ctl(epoll_, EPOLL_CTL_MOD, c.fd, &event);
  }

  void send(Connection& c) {
    while (c.sent < c.unsent.size()) {
      const ssize_t n = ::send(c.fd, c.unsent.data() + c.sent, c.unsent.size() - c.sent, MSG_NOSIGNAL);
      if (n < 0 && errno == EAGAIN) return want(c, true);
      if (n < 0) return broken(c, std::strerror(errno));
      c.sent += static_cast<size_t>(n);
    }
    want(c, false);
  }

  void ready(Connection& c, uint32_t events) {
    if (!c.connected && (events & (EPOLLOUT | EPOLLERR | EPOLLHUP))) {
      int error = 0;
      socklen_t size = sizeof error;
      ::getsockopt(c.fd, SOL_SOCKET, SO_ERROR, &error, &size);
      if (error) return finish(c, fmt::format("cannot connect to {}:{}: {}", address_.host, address_.port, std::strerror(error)));
      c.connected = true;
      const int64_t now = monotonic_ns();
      c.outcome.connect_ns = now - c.opened_ns;
      c.outcome.start_ns = now;
      return send(c);
    }
    if ((events & EPOLLOUT) && c.call && c.sent < c.unsent.size()) {
      const int fd = c.fd;
      send(c);
      if (!connections_.contains(fd)) return;
    }
    if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) receive(c);
  }

  // What streams send in the meantime is read at one waking instead of one for each chunk; the kernel noted when it came.
  void rest() {
    constexpr int64_t kRestNs = 250'000;
    const int64_t now = monotonic_ns(), left = std::min(timers_.next(now + kRestNs) - now, kRestNs);
    const timespec time{.tv_sec = 0, .tv_nsec = static_cast<long>(left)};
    if (left > 0) ::nanosleep(&time, nullptr);
  }

  static int64_t nanoseconds(const timespec& time) { return time.tv_sec * 1'000'000'000 + time.tv_nsec; }
  // The kernel notes arrivals by the wall clock.
  void read_wall_clock() {
    timespec wall;
    ::clock_gettime(CLOCK_REALTIME, &wall);
    wall_ahead_ns_ = nanoseconds(wall) - monotonic_ns();
  }

  // As recv(); `now` becomes the time at which the last of the bytes reached this machine, where the kernel tells it.
  ssize_t receive_stamped(Connection& c, int64_t& now) {
    alignas(cmsghdr) char control[64];
    iovec part{.iov_base = buffer_.data(), .iov_len = buffer_.size()};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    const ssize_t n = ::recvmsg(c.fd, &message, 0);
    now = monotonic_ns();
    if (n <= 0) return n;
    const cmsghdr* head = CMSG_FIRSTHDR(&message);
    if (!head || head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_TIMESTAMPNS) return n;
    timespec stamp;
    std::memcpy(&stamp, CMSG_DATA(head), sizeof stamp);
    const int64_t came = nanoseconds(stamp) - wall_ahead_ns_;
    if (came > c.last_ns && came < now) now = came;  // else the wall clock was set in between
    return n;
  }

  void receive(Connection& c) {
    int64_t now = 0;
    const ssize_t n = receive_stamped(c, now);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (!c.call) return drop(c);  // an idle connection that the server closed
    if (n <= 0) {
      if (n == 0 && c.reader.state == BodyReader::State::until_close) {
        c.reader.keep_alive = false;
        return finish(c, "");
      }
      return broken(c, n == 0 ? "the server closed the connection" : std::strerror(errno));
    }
    c.got_bytes = true;
    c.last_ns = now;
    c.reader.push({buffer_.data(), static_cast<size_t>(n)}, [&](std::string_view bytes) {
      if (c.call->on_body && c.reader.status == 200) {
        c.call->on_body(bytes, now);
      } else {
        c.outcome.body += bytes;
      }
    });
    if (c.reader.state == BodyReader::State::bad) return finish(c, "not an HTTP answer");
    if (c.reader.state == BodyReader::State::done) finish(c, "", now);
  }

  // A kept connection may be closed by the server just as we write: tried once more on a new one, as long as no byte came back.
  void broken(Connection& c, const std::string& why) {
    if (!c.got_bytes && !c.fresh && !c.retried) {
      auto call = std::move(c.call);
      drop(c);
      return begin(std::move(call), /*retried=*/true);
    }
    finish(c, why);
  }

  void finish(Connection& c, const std::string& error, int64_t now = monotonic_ns()) {
    auto call = std::move(c.call);
    HttpOutcome outcome = std::move(c.outcome);
    outcome.status = c.reader.status;
    outcome.error = error;
    outcome.end_ns = now;
    c.fresh = false;
    if (error.empty() && c.reader.keep_alive) {
      idle_.push_back(c.fd);
    } else {
      drop(c);
    }
    --in_flight_;
    call->on_done(std::move(outcome));
  }

  void drop(Connection& c) {
    std::erase(idle_, c.fd);
    ::close(c.fd);
    connections_.erase(c.fd);
  }

  void expire(int64_t now) {
    std::vector<int> late;
    for (auto& [fd, c] : connections_) {
      if (c->call && static_cast<double>(now - c->last_ns) > 1e9 * (c->connected ? options_.read_seconds : options_.connect_seconds)) late.push_back(fd);
    }
    for (const int fd : late) {
      const auto at = connections_.find(fd);
      if (at != connections_.end() && at->second->call) finish(*at->second, at->second->connected ? "timed out waiting for the server" : "timed out connecting");
    }
  }

  HttpAddress address_;
  HttpClientOptions options_;
  int epoll_;
  addrinfo* found_ = nullptr;
  std::unordered_map<int, std::unique_ptr<Connection>> connections_;
  std::vector<int> idle_;
  Timers timers_;
  int64_t in_flight_ = 0, wall_ahead_ns_ = 0;
  std::vector<char> buffer_ = std::vector<char>(256 << 10);
};
}  // namespace

std::unique_ptr<Transport> make_http_transport(const HttpAddress& address, const HttpClientOptions& options) { return std::make_unique<HttpTransport>(address, options); }

HttpOutcome call_and_wait(Transport& transport, std::string method, std::string target, std::string body, double seconds, const std::function<bool()>& stopped) {
  HttpOutcome result;
  bool done = false;
  transport.start({.method = std::move(method), .target = std::move(target), .body = std::move(body), .on_body = {}, .on_done = [&](HttpOutcome&& o) {
                     result = std::move(o);
                     done = true;
                   }});
  const int64_t until = transport.now_ns() + static_cast<int64_t>(seconds * 1e9);
  transport.run([&] {
    if (!done && (transport.now_ns() > until || (stopped && stopped()))) transport.cancel_all();
  });
  return result;
}
}  // namespace nibble
