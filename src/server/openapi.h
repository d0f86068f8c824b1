// The description of the routes that /openapi.json gives: web/openapi.json, with the version put in.
#pragma once

#include <string>

namespace nibble {
std::string openapi_document(const std::string& version);
}
