// --config FILE: option names without their dashes, and values, as a JSON object or as the plain part of YAML:
//
//   # a comment
//   model-path: /models/gemma        # text up to the end of the line, or "quoted" or 'quoted'
//   port: 8000
//   log-requests: true               # true and false, unquoted, are switches
//   limit-mm-data-per-request: {"image": 4}
//
// One option a line; no lists, no nesting, no anchors.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace nibble {
struct ConfigEntry {
  std::string name, value;
  bool is_switch = false;  // value is "true" or "false"
};

Result<std::vector<ConfigEntry>> parse_config(std::string_view text);  // invalid_argument: the line, and what is wrong with it
}  // namespace nibble
