#include "server/media_fetch.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "base/clock.h"
#include "base/file_io.h"
#include "base/test_paths.h"
#include "server/media_parts.h"

namespace nibble {
namespace {
TEST(PublicAddresses, AreThoseThatAnybodyCanReach) {
  for (const char* address : {"1.1.1.1", "93.184.216.34", "172.15.255.255", "172.32.0.1", "100.63.0.1", "100.128.0.1", "11.0.0.1", "198.20.0.1", "2606:4700::1111", "2a00:1450::1", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:0808:0808::1"}) {
    EXPECT_TRUE(is_public_address(address)) << address;
  }
  for (const char* address : {"127.0.0.1", "127.255.0.3", "0.0.0.0", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "100.127.255.255", "169.254.169.254", "192.0.0.8", "198.18.0.1", "224.0.0.1",
                              "239.1.1.1", "240.0.0.1", "255.255.255.255", "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "fc00::1", "fd12::1", "fe80::1", "fec0::1", "ff02::1",
                              "64:ff9b::7f00:1", "64:ff9b:1::1", "2002:7f00:1::1", "2002:c0a8:101::1", "2001:db8::1", "2001::1", "100::1", "localhost", "", "1.2.3", "fe80::1%lo"}) {
    EXPECT_FALSE(is_public_address(address)) << address;
  }
}

TEST(HttpUrls, ArePartedAndStrangeOnesAreRefused) {
  const HttpUrl url = parse_http_url("HTTPS://Example.COM.:8443/a/b.png?x=1&y#part").value();
  EXPECT_TRUE(url.tls);
  EXPECT_EQ(url.host, "example.com");
  EXPECT_EQ(url.port, "8443");
  EXPECT_EQ(url.target, "/a/b.png?x=1&y");
  EXPECT_EQ(parse_http_url("http://[::1]/x").value().host, "::1");
  EXPECT_EQ(parse_http_url("http://h?q").value().target, "/?q");
  EXPECT_EQ(parse_http_url("http://good.example\\@evil.example/").value().host, "good.example");
  for (const char* bad : {"ftp://h/x", "http://", "http:///x", "http://user@h/", "http://a:b@h/", "http://h:0x50/", "http://h:99999/", "http://h:/", "http://[::1/", "http://h /", "http://h/a b", "http://h/\r\nX: y", "http://h\xC3\xA4/", "http://h/\xC3\xA4", "http://h%2e/"}) {
    EXPECT_FALSE(parse_http_url(bad)) << bad;
  }
  const HttpUrl from = parse_http_url("http://a.example:81/x/y.png?z").value();
  const auto leads_to = [&](const char* location) {
    const auto to = resolve_redirect(from, location);
    return to ? (to->tls ? "https " : "http ") + to->host + " " + to->port + " " + to->target : std::string("refused");
  };
  EXPECT_EQ(leads_to("https://b.example/q"), "https b.example 443 /q");
  EXPECT_EQ(leads_to("//b.example/q"), "http b.example 80 /q");
  EXPECT_EQ(leads_to("/q"), "http a.example 81 /q");
  EXPECT_EQ(leads_to("q.png"), "http a.example 81 /x/q.png");
  EXPECT_EQ(leads_to("?q"), "http a.example 81 /x/y.png?q");
  EXPECT_EQ(leads_to("/q?u=http://c.example/"), "http a.example 81 /q?u=http://c.example/");
  EXPECT_EQ(leads_to("file:///etc/passwd"), "refused");
  EXPECT_EQ(leads_to(""), "refused");
}

// Answers each connection by its path.
class SmallServer {
 public:
  SmallServer() {
    listener_ = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    if (::bind(listener_, reinterpret_cast<sockaddr*>(&address), size) != 0 || ::listen(listener_, 16) != 0) ADD_FAILURE() << "no port";
    ::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { serve(); });
  }
  ~SmallServer() {
    stop_ = true;
    ::shutdown(listener_, SHUT_RDWR);
    thread_.join();
    ::close(listener_);
  }
  std::string url(const std::string& path, const std::string& host = "127.0.0.1") const { return "http://" + host + ":" + std::to_string(port_) + path; }
  int asked() const { return asked_; }

 private:
  void serve() {
    while (!stop_) {
      const int socket = ::accept(listener_, nullptr, nullptr);
      if (socket < 0) break;
      ++asked_;
      std::string request(4096, '\0');
      request.resize(static_cast<size_t>(std::max<ssize_t>(0, ::recv(socket, request.data(), request.size(), 0))));
      const std::string path = request.substr(4, request.find(' ', 4) - 4);
      const auto send = [&](const std::string& bytes) { return ::send(socket, bytes.data(), bytes.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(bytes.size()); };
      const auto answer = [&](const std::string& head, const std::string& body) { send("HTTP/1.1 " + head + "\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body); };
      if (path == "/picture") answer("200 OK", read_file(test_data("model/media/rings_300x200.jpg")));
      if (path == "/small") answer("200 OK", "hello");
      if (path == "/chunked") send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n");
      if (path == "/until-close") send("HTTP/1.1 200 OK\r\n\r\nhello");
      if (path == "/big") answer("200 OK", std::string(3 << 20, 'x'));
      if (path == "/endless") {
        send("HTTP/1.1 200 OK\r\n\r\n");
        while (!stop_ && send(std::string(65536, 'x'))) {
        }
      }
      if (path == "/slow") {
        send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n");
        for (int i = 0; i < 100 && !stop_ && send("x"); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(50));
      }
      if (path == "/cut") send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello");
      if (path == "/noise") send("garbage\r\n\r\n");
      if (path == "/packed") answer("200 OK\r\nContent-Encoding: gzip", "hello");
      if (path == "/empty") answer("200 OK", "");
      if (path == "/missing") answer("404 Not Found", "secret words");
      if (path == "/again") answer("302 Found\r\nLocation: /small", "");
      if (path == "/loop") answer("302 Found\r\nLocation: /loop", "");
      if (path == "/to-private") answer("302 Found\r\nLocation: http://localhost:" + std::to_string(port_) + "/small", "");
      if (path == "/to-metadata") answer("302 Found\r\nLocation: http://169.254.169.254/latest", "");
      if (path == "/to-file") answer("302 Found\r\nLocation: file:///etc/passwd", "");
      ::close(socket);
    }
  }

  int listener_ = -1;
  uint16_t port_ = 0;
  std::atomic<bool> stop_ = false;
  std::atomic<int> asked_ = 0;
  std::thread thread_;
};

std::string outcome(const std::string& url, const FetchOptions& options) {
  const auto body = fetch_url(url, options);
  return body ? *body : "refused: " + body.error().message;
}
bool is_refused(const std::string& outcome, std::string_view why) { return outcome.starts_with("refused: ") && outcome.find(why) != std::string::npos; }

TEST(FetchUrl, BringsBodiesOfAllowedHostsAndFollowsRedirects) {
  const SmallServer server;
  const FetchOptions options{.domains = {"127.0.0.1"}};
  for (const char* path : {"/small", "/chunked", "/until-close", "/again"}) EXPECT_EQ(outcome(server.url(path), options), "hello") << path;
}

TEST(FetchUrl, HostsThatAreNotAllowedOrNotPublicAreNeverAsked) {
  const SmallServer server;
  EXPECT_TRUE(is_refused(outcome(server.url("/small"), {.domains = {}}), "not among --allowed-media-domains"));
  EXPECT_TRUE(is_refused(outcome(server.url("/small"), {.domains = {"example.com"}}), "not among --allowed-media-domains"));
  for (const char* host : {"127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "0", "[::1]", "[::ffff:127.0.0.1]"}) {
    EXPECT_TRUE(is_refused(outcome(server.url("/small", host), {.domains = {"*"}}), "")) << host;
  }
  EXPECT_TRUE(is_refused(outcome(server.url("/small", "localhost"), {.domains = {"localhost"}}), "not a public one"));  // a name, not that address
  EXPECT_EQ(server.asked(), 0);
}

TEST(FetchUrl, RedirectsAreCheckedLikeTheFirstUrl) {
  const SmallServer server;
  const FetchOptions options{.domains = {"127.0.0.1", "*"}};
  EXPECT_TRUE(is_refused(outcome(server.url("/to-private"), options), "not a public one"));
  EXPECT_TRUE(is_refused(outcome(server.url("/to-metadata"), options), "not a public one"));
  EXPECT_TRUE(is_refused(outcome(server.url("/to-file"), options), ""));
  EXPECT_EQ(server.asked(), 3);
  EXPECT_TRUE(is_refused(outcome(server.url("/loop"), options), "too often"));
  EXPECT_EQ(server.asked(), 3 + 4);  // the first and three redirects
}

TEST(FetchUrl, SizeAndTimeAreBounded) {
  const SmallServer server;
  const FetchOptions options{.domains = {"127.0.0.1"}, .max_bytes = 1 << 20, .total_seconds = 0.5};
  EXPECT_TRUE(is_refused(outcome(server.url("/big"), options), "more than 1 MiB"));
  EXPECT_TRUE(is_refused(outcome(server.url("/endless"), options), "more than 1 MiB"));
  const double began = monotonic_seconds();
  EXPECT_TRUE(is_refused(outcome(server.url("/slow"), options), "too long"));
  EXPECT_LT(monotonic_seconds() - began, 3);
}

TEST(FetchUrl, WhatIsWrongIsSaidWithoutWhatWasFetched) {
  const SmallServer server;
  const FetchOptions options{.domains = {"127.0.0.1"}};
  for (const auto& [path, why] : {std::pair{"/cut", "cut off"}, {"/noise", "no HTTP"}, {"/packed", "compresses"}, {"/empty", "empty"}, {"/missing", "status 404"}}) {
    const std::string got = outcome(server.url(path), options);
    EXPECT_TRUE(is_refused(got, why)) << path << ": " << got;
    EXPECT_EQ(got.find("secret"), std::string::npos);
  }
}

TEST(FetchUrl, AFetchedPictureIsWhatItsDataUrlIs) {
  const SmallServer server;
  const MediaOptions options{.images = true, .audio = true, .image_budget = 70, .fetch = {.domains = {"127.0.0.1"}}};
  const MediaReference fetched{MediaKind::image, server.url("/picture"), {}, "p"}, missing{MediaKind::image, server.url("/missing"), {}, "messages[0].content[1]"};
  EXPECT_EQ(prepare_media(std::span(&fetched, 1), options, 0)[0].blocks[0].count, 60);
  try {
    prepare_media(std::span(&missing, 1), options, 0);
    ADD_FAILURE() << "taken";
  } catch (const Error& error) {
    EXPECT_EQ(error.code, ErrorCode::invalid_argument);
    EXPECT_EQ(error.param, "messages[0].content[1]");
  }
}
}  // namespace
}  // namespace nibble
