#include "server/media_fetch.h"

#include <algorithm>
#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/ssl.hpp>
#include <chrono>
#include <optional>

namespace nibble {
namespace {
namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using Clock = std::chrono::steady_clock;
using boost::system::error_code;

bool is_public(const asio::ip::address_v4& address) {
  struct Net {
    uint32_t base;
    int bits;
  };
  // "This network", private, shared (carriers), loopback, link-local (metadata services too), protocol assignments, documentation, 6to4 relays, benchmarks,
  // multicast, reserved and broadcast.
  static constexpr Net kOthers[] = {{0x00000000, 8}, {0x0A000000, 8}, {0x64400000, 10}, {0x7F000000, 8}, {0xA9FE0000, 16}, {0xAC100000, 12}, {0xC0000000, 24}, {0xC0000200, 24},
                                    {0xC0586300, 24}, {0xC0A80000, 16}, {0xC6120000, 15}, {0xC6336400, 24}, {0xCB007100, 24}, {0xE0000000, 4}, {0xF0000000, 4}};
  const uint32_t value = address.to_uint();
  return std::none_of(std::begin(kOthers), std::end(kOthers), [&](const Net& net) { return (value ^ net.base) >> (32 - net.bits) == 0; });
}

bool is_public(const asio::ip::address_v6& address) {
  const auto b = address.to_bytes();
  const auto v4_at = [&](size_t i) { return asio::ip::address_v4({b[i], b[i + 1], b[i + 2], b[i + 3]}); };
  const auto starts = [&](std::initializer_list<int> bytes) { return std::equal(bytes.begin(), bytes.end(), b.begin()); };
  const bool zeros10 = std::all_of(b.begin(), b.begin() + 10, [](unsigned char x) { return x == 0; });
  if (zeros10 && ((b[10] == 0xFF && b[11] == 0xFF) || (b[10] == 0 && b[11] == 0))) return is_public(v4_at(12));  // mapped, compatible; :: and ::1 as well
  if (starts({0x00, 0x64, 0xFF, 0x9B})) return is_public(v4_at(12)) && std::all_of(b.begin() + 4, b.begin() + 12, [](unsigned char x) { return x == 0; });  // NAT64; its local form is not public
  if (starts({0x20, 0x02})) return is_public(v4_at(2));                                                                                                        // 6to4
  if (starts({0x20, 0x01, 0x0D, 0xB8}) || starts({0x20, 0x01, 0x00})) return false;                                                                            // documentation; Teredo and the like
  return (b[0] & 0xE0) == 0x20;  // global unicast; what is left is unique-local, link-local, multicast or not assigned
}

bool is_public(const asio::ip::address& address) { return address.is_v4() ? is_public(address.to_v4()) : is_public(address.to_v6()); }

std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), [](unsigned char c) { return static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c); });
  return out;
}

tl::unexpected<Error> refuse(std::string_view why) { return fail(ErrorCode::invalid_argument, "the URL was not fetched: {}", why); }

// One request over one connection. Each operation runs the context until it is done or its time is over.
class Exchange {
 public:
  Exchange(const FetchOptions& options, Clock::time_point deadline) : options_(options), deadline_(deadline) {}

  struct Answer {
    std::string body, location;  // location: of a redirect
  };
  Result<Answer> get(const HttpUrl& url) {
    const bool listed = std::find(options_.domains.begin(), options_.domains.end(), url.host) != options_.domains.end();
    if (!listed && std::find(options_.domains.begin(), options_.domains.end(), "*") == options_.domains.end()) return refuse("its host is not among --allowed-media-domains");
    error_code not_an_address;
    asio::ip::make_address(url.host, not_an_address);
    const auto endpoints = resolve(url, listed && !not_an_address);
    if (!endpoints) return tl::unexpected(endpoints.error());
    http::request<http::empty_body> request{http::verb::get, url.target, 11};
    const bool bracketed = url.host.find(':') != std::string::npos, usual_port = url.port == (url.tls ? "443" : "80");
    request.set(http::field::host, (bracketed ? "[" + url.host + "]" : url.host) + (usual_port ? "" : ":" + url.port));
    request.set(http::field::user_agent, "nibble");
    request.set(http::field::accept, "image/*, audio/*, video/*, application/octet-stream");
    request.set(http::field::accept_encoding, "identity");
    request.set(http::field::connection, "close");
    if (!url.tls) {
      beast::tcp_stream stream(context_);
      if (!connect(stream, *endpoints)) return refuse("no connection");
      return talk(stream, stream, request);
    }
    asio::ssl::context tls(asio::ssl::context::tls_client);
    tls.set_default_verify_paths();
    tls.set_verify_mode(asio::ssl::verify_peer);
    tls.set_verify_callback(asio::ssl::host_name_verification(url.host));
    beast::ssl_stream<beast::tcp_stream> stream(context_, tls);
    if (not_an_address) SSL_set_tlsext_host_name(stream.native_handle(), url.host.c_str());
    beast::tcp_stream& lowest = beast::get_lowest_layer(stream);
    if (!connect(lowest, *endpoints)) return refuse("no connection");
    if (wait([&](auto handler) { stream.async_handshake(asio::ssl::stream_base::client, handler); })) return refuse("no TLS connection, or a certificate that is not trusted");
    return talk(stream, lowest, request);
  }

 private:
  using Endpoints = std::vector<asio::ip::tcp::endpoint>;

  // All of a name's addresses must be public: one that is not may be what the connection ends up with.
  Result<Endpoints> resolve(const HttpUrl& url, bool any_address) {
    asio::ip::tcp::resolver resolver(context_);
    error_code failed;
    const auto results = resolver.resolve(url.host, url.port, asio::ip::resolver_base::numeric_service, failed);
    if (failed || results.empty()) return refuse("its host has no address");
    Endpoints endpoints;
    for (const auto& entry : results) {
      if (!any_address && !is_public(entry.endpoint().address())) return refuse("its host is not a public one");
      endpoints.push_back(entry.endpoint());
    }
    return endpoints;
  }

  template <typename Start>
  error_code wait(const Start& start) {
    error_code result = asio::error::would_block;
    start([&](error_code status, auto&&...) { result = status; });
    context_.restart();
    context_.run();
    return result;
  }

  bool connect(beast::tcp_stream& stream, const Endpoints& endpoints) {
    stream.expires_at(std::min(deadline_, Clock::now() + std::chrono::milliseconds(static_cast<int64_t>(options_.connect_seconds * 1e3))));
    const error_code failed = wait([&](auto handler) { stream.async_connect(endpoints, handler); });
    stream.expires_at(deadline_);
    return !failed;
  }

  template <typename Stream>
  Result<Answer> talk(Stream& stream, beast::tcp_stream& lowest, const http::request<http::empty_body>& request) {
    lowest.expires_at(deadline_);
    if (wait([&](auto handler) { http::async_write(stream, request, handler); })) return refuse("the server did not take the request");
    beast::flat_buffer buffer;
    http::response_parser<http::string_body> parser;
    parser.header_limit(16 << 10);
    if (options_.max_bytes > 0) {
      parser.body_limit(static_cast<uint64_t>(options_.max_bytes));
    } else {
      parser.body_limit(boost::none);
    }
    const auto reason = [&](error_code failed) {
      if (failed == http::error::body_limit) return fmt::format("it has more than {} MiB (--media-url-max-file-size-mb)", options_.max_bytes >> 20);
      return std::string(failed == beast::error::timeout ? "it took too long" : "the answer was cut off or is no HTTP");
    };
    if (const error_code failed = wait([&](auto handler) { http::async_read_header(stream, buffer, parser, handler); })) return refuse(reason(failed));
    const auto& answer = parser.get();
    const int status = answer.result_int();
    if (status == 301 || status == 302 || status == 303 || status == 307 || status == 308) return Answer{{}, std::string(answer[http::field::location])};
    if (status != 200) return fail(ErrorCode::invalid_argument, "the URL was not fetched: its server answered with status {}", status);
    if (const auto encoding = lower(std::string_view(answer[http::field::content_encoding].data(), answer[http::field::content_encoding].size())); !encoding.empty() && encoding != "identity") {
      return refuse("its server compresses the answer");
    }
    if (!parser.is_done()) {
      // A close may end a body without a length; a TLS connection that ends without its farewell then ends it as well.
      const error_code failed = wait([&](auto handler) { http::async_read(stream, buffer, parser, handler); });
      if (failed && !(failed == asio::ssl::error::stream_truncated && parser.is_done())) return refuse(reason(failed));
    }
    return Answer{std::move(parser.get().body()), {}};
  }

  const FetchOptions& options_;
  Clock::time_point deadline_;
  asio::io_context context_{1};
};
}  // namespace

Result<HttpUrl> parse_http_url(std::string_view url) {
  HttpUrl out;
  if (lower(url.substr(0, 8)) == "https://") {
    out.tls = true;
    url.remove_prefix(8);
  } else if (lower(url.substr(0, 7)) == "http://") {
    url.remove_prefix(7);
  } else {
    return refuse("it does not begin with http:// or https://");
  }
  for (const char c : url) {
    if (static_cast<unsigned char>(c) <= ' ' || c == 127) return refuse("it has spaces or control characters");
  }
  url = url.substr(0, url.find('#'));
  const size_t end = std::min(url.find_first_of("/?\\"), url.size());
  std::string_view authority = url.substr(0, end);
  out.target = url.substr(end);
  if (out.target.empty() || out.target.front() != '/') out.target.insert(out.target.begin(), '/');
  if (authority.find('@') != std::string_view::npos) return refuse("it has a user name");
  out.port = out.tls ? "443" : "80";
  if (authority.starts_with('[')) {
    const size_t close = authority.find(']');
    if (close == std::string_view::npos) return refuse("its host is malformed");
    out.host = lower(authority.substr(1, close - 1));
    authority.remove_prefix(close + 1);
  } else {
    const size_t colon = std::min(authority.find(':'), authority.size());
    out.host = lower(authority.substr(0, colon));
    authority.remove_prefix(colon);
    if (out.host.ends_with('.')) out.host.pop_back();
  }
  if (!authority.empty()) {
    out.port = authority.substr(1);
    if (authority.front() != ':' || out.port.empty() || out.port.size() > 5 || out.port.find_first_not_of("0123456789") != std::string::npos || std::stoi(out.port) > 65535) return refuse("its port is malformed");
  }
  const bool ascii = std::all_of(out.host.begin(), out.host.end(), [](unsigned char c) { return std::isalnum(c) || c == '.' || c == '-' || c == '_' || c == ':'; });
  if (out.host.empty() || !ascii) return refuse("its host is malformed; write names outside ASCII in their xn-- form");
  for (const char c : out.target) {
    if (static_cast<unsigned char>(c) > 126) return refuse("its path must be percent-encoded");
  }
  return out;
}

Result<HttpUrl> resolve_redirect(const HttpUrl& from, std::string_view location) {
  if (location.empty()) return refuse("it leads nowhere");
  if (location.find("://") < location.find_first_of("/?#")) return parse_http_url(location);
  if (location.starts_with("//")) return parse_http_url((from.tls ? "https:" : "http:") + std::string(location));
  const std::string host = from.host.find(':') != std::string::npos ? "[" + from.host + "]" : from.host;
  const std::string root = (from.tls ? "https://" : "http://") + host + ":" + from.port;
  if (location.starts_with('/')) return parse_http_url(root + std::string(location));
  const std::string path = from.target.substr(0, from.target.find('?'));
  return parse_http_url(root + (location.starts_with('?') ? path : path.substr(0, path.rfind('/') + 1)) + std::string(location));
}

bool is_public_address(const std::string& address) {
  error_code failed;
  const auto parsed = asio::ip::make_address(address, failed);
  return !failed && is_public(parsed);
}

Result<std::string> fetch_url(const std::string& url, const FetchOptions& options) {
  const auto deadline = Clock::now() + std::chrono::milliseconds(static_cast<int64_t>(options.total_seconds * 1e3));
  auto at = parse_http_url(url);
  for (int redirects = 0; at; ++redirects) {
    auto answer = Exchange(options, deadline).get(*at);
    if (!answer) return tl::unexpected(std::move(answer).error());
    if (answer->location.empty() && !answer->body.empty()) return std::move(answer->body);
    if (answer->location.empty()) return refuse("it is empty");
    if (redirects == options.max_redirects) return refuse("it redirects too often");
    at = resolve_redirect(*at, answer->location);
  }
  return tl::unexpected(std::move(at).error());
}
}  // namespace nibble
