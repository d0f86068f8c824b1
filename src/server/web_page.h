// The chat page at "/": one HTML file, embedded at build time (web/page.html), answered to clients that accept text/html.
#pragma once

#include "server/http.h"

namespace nibble {
// A fresh nonce in each answer lets the page's own script and style run and nothing else: what a model writes can neither run nor fetch.
HttpResponse web_page();
}  // namespace nibble
