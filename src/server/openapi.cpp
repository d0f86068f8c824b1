#include "server/openapi.h"

#include <string_view>

namespace nibble {
extern const std::string_view kOpenApi;  // generated from web/openapi.json

std::string openapi_document(const std::string& version) {
  constexpr std::string_view kPlace = "{{version}}";
  std::string document(kOpenApi);
  if (const size_t at = document.find(kPlace); at != std::string::npos) document.replace(at, kPlace.size(), version);
  return document;
}
}  // namespace nibble
