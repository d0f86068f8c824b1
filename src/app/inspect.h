// `nibble inspect`: JSON lines in on stdin, JSON lines out on stdout, one per input line, in order.
#pragma once

#include <string>

#include "app/model_loader.h"

namespace nibble {
int inspect_tokens(const ModelFlags& flags);
int inspect_prompt(const ModelFlags& flags, const std::string& chat_template);
int inspect_message(const ModelFlags& flags);
int inspect_logits(const ModelFlags& flags, const std::string& out_file, bool step_by_step, int chunk);
int inspect_generate(const ModelFlags& flags);
}  // namespace nibble
