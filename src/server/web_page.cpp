#include "server/web_page.h"

#include <fmt/format.h>

#include "server/http_text.h"

namespace nibble {
extern const std::string_view kChatPage;  // generated from web/page.html

HttpResponse web_page() {
  constexpr std::string_view kPlace = "{{nonce}}";
  const std::string nonce = random_hex(32);
  std::string page;
  page.reserve(kChatPage.size() + 64);
  size_t at = 0;
  for (size_t found; (found = kChatPage.find(kPlace, at)) != std::string_view::npos; at = found + kPlace.size()) {
    page.append(kChatPage, at, found - at).append(nonce);
  }
  page.append(kChatPage, at);
  const std::string policy = fmt::format(
      "default-src 'none'; script-src 'nonce-{0}'; style-src 'nonce-{0}'; connect-src 'self'; img-src data: blob:; media-src data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'", nonce);
  return {.status = 200,
          .body = std::move(page),
          .content_type = "text/html; charset=utf-8",
          .headers = {{"Content-Security-Policy", policy}, {"X-Content-Type-Options", "nosniff"}, {"Referrer-Policy", "no-referrer"}, {"Cache-Control", "no-cache"}}};
}
}  // namespace nibble
