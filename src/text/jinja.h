// Jinja templates, the part of the language that chat templates use, with the semantics of jinja2 in its sandbox (trim_blocks, lstrip_blocks, no autoescape).
//
// Every byte of the output carries its origin: trusted bytes were written by the template itself, the others came from data (messages, tools, arguments). The
// origin is kept through concatenation, filters and slices, so that text which merely spells a control token can never become one.
//
// A template is parsed once and may be rendered from many threads.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "text/tokenizer.h"

namespace nibble {
struct MarkedText {
  std::string text;
  std::vector<TextSpan> trusted;  // ascending, disjoint, maximal
};

// What one render may do before it is given up.
struct JinjaLimits {
  int64_t steps = 10'000'000;
  int64_t work_bytes = int64_t{4} << 30;  // copied or compared
};

class JinjaTemplate {
 public:
  // invalid_argument with the line on a syntax error.
  static Result<JinjaTemplate> parse(std::string_view source);

  JinjaTemplate(JinjaTemplate&&) noexcept;
  JinjaTemplate& operator=(JinjaTemplate&&) noexcept;
  ~JinjaTemplate();

  // `variables`: an object; strings in it are data, those in `trusted_variables` count as the template's own.
  // Errors: whatever raises in the template (raise_exception, undefined access, types), and the limits: those given, 64 MiB of text, lists of a
  // million items, values 300 and calls 200 levels deep.
  Result<MarkedText> render(const nlohmann::ordered_json& variables, const nlohmann::ordered_json& trusted_variables, const JinjaLimits& limits = {}) const;

 private:
  struct Impl;
  explicit JinjaTemplate(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};
}  // namespace nibble
