#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <string>
#include <thread>

#include "eval/transport.h"

namespace nibble {
namespace {
constexpr int64_t kMs = 1'000'000;

// A server of one connection: answers the head of a stream at once, then one event for each call of send().
class OneStream {
 public:
  OneStream() : listener_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof at;
    EXPECT_EQ(::bind(listener_, reinterpret_cast<sockaddr*>(&at), size), 0);
    EXPECT_EQ(::listen(listener_, 1), 0);
    ::getsockname(listener_, reinterpret_cast<sockaddr*>(&at), &size);
    port = std::to_string(ntohs(at.sin_port));
    accepting_ = std::thread([this] {
      const int fd = ::accept(listener_, nullptr, nullptr);
      char request[4096];
      EXPECT_GT(::recv(fd, request, sizeof request, 0), 0);
      put(fd, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
      open = fd;
    });
  }
  ~OneStream() {
    accepting_.join();
    ::close(open);
    ::close(listener_);
  }
  void send(const std::string& bytes) { put(open, bytes); }

  std::string port;
  std::atomic<int> open{-1};

 private:
  static void put(int fd, const std::string& bytes) { EXPECT_EQ(::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL), static_cast<ssize_t>(bytes.size())); }
  int listener_;
  std::thread accepting_;
};

TEST(HttpTransport, TellsWhenBytesCameNotWhenTheyWereRead) {
  OneStream server;
  const auto transport = make_http_transport({.host = "127.0.0.1", .port = server.port}, {});
  // The kernel may begin to note times a little after the socket asked for it, so not the first event counts but the best of a few.
  constexpr int kEvents = 20, kLateMs = 40;
  std::string body;
  int64_t before = 0, after = 0, shortest = INT64_MAX;
  int sent = 0, read = 0;
  bool ended = false, done = false;
  transport->start({.target = "/", .on_body = [&](std::string_view bytes, int64_t now_ns) {
                      body += bytes;
                      ++read;
                      EXPECT_GE(now_ns, before - kMs);
                      EXPECT_LE(now_ns, transport->now_ns());
                      shortest = std::min(shortest, now_ns - after);
                    },
                    .on_done = [&](HttpOutcome&& outcome) { done = outcome.error.empty(); }});
  transport->run([&] {
    if (server.open < 0 || sent > read || ended) return;
    if (sent == kEvents || shortest < kMs) {
      ended = true;
      return server.send("0\r\n\r\n");
    }
    before = transport->now_ns();
    server.send("1\r\nx\r\n");
    after = transport->now_ns();
    ++sent;
    std::this_thread::sleep_for(std::chrono::milliseconds(kLateMs));  // a client that is busy with other things
  });
  EXPECT_TRUE(done);
  EXPECT_FALSE(body.empty());
  EXPECT_LT(shortest, kLateMs * kMs / 2);
}
}  // namespace
}  // namespace nibble
