// Media by http(s) URL, for servers that allow it. The client chooses the URL, so it must not reach what only the server can reach: the host must be allowed, every
// address that its name stands for is checked before the connection goes to just that address, and each redirect is checked anew. Time and size are bounded.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace nibble {
struct FetchOptions {
  // Host names or addresses, exactly, in lower case; "*": every host with public addresses. Empty: nothing is fetched. A host that is itself an address, and
  // listed so, may be any address.
  std::vector<std::string> domains;
  int64_t max_bytes = int64_t{64} << 20;  // 0: no limit
  double connect_seconds = 5, total_seconds = 30;
  int max_redirects = 3;
};

struct HttpUrl {
  bool tls = false;
  std::string host;    // lower case, without brackets
  std::string port;
  std::string target;  // path and query
};
// invalid_argument: not http(s), a user name, a host outside ASCII (its xn-- form is wanted), control characters.
Result<HttpUrl> parse_http_url(std::string_view url);
// Where a Location header leads from a URL.
Result<HttpUrl> resolve_redirect(const HttpUrl& from, std::string_view location);

// Neither loopback, private, shared, link-local, unique-local, multicast nor reserved, also not inside IPv6 (mapped, compatible, 6to4, NAT64). False for what is no address.
bool is_public_address(const std::string& address);

// The body of a 200 answer. Blocks for total_seconds at most, longer only where the system's resolver does. Errors do not repeat what was fetched.
Result<std::string> fetch_url(const std::string& url, const FetchOptions& options);
}  // namespace nibble
