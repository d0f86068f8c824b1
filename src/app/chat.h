// `nibble chat`: a conversation in the terminal, the model in the same process.
#pragma once

#include <string>

#include "app/model_loader.h"

namespace nibble {
struct ChatFlags {
  ModelFlags model;
  std::string system;       // system message
  bool thinking = false;
  float temperature = -1;   // < 0: the model's recommendation
  int max_tokens = 1024;
};
int run_chat(ChatFlags flags);
}  // namespace nibble
