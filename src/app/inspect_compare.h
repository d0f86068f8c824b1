// `nibble inspect compare DIR_A DIR_B`: how far B's weights are from A's, tensor by tensor, worst first; with prompts, how far its predictions are.
#pragma once

#include <iosfwd>
#include <string>

#include "app/model_loader.h"

namespace nibble {
struct InspectCompareFlags {
  std::string a, b;         // folders, ids in the cache, or demo
  std::string prompts;      // JSON lines with ids, text or messages; "own": some of our own; empty: weights alone
  int64_t num_prompts = 32;
  ModelFlags model;         // device, threads, dtype of the forward passes
  bool all = false;         // also the tensors beyond the 20 worst
  bool json = false;
};
int inspect_compare(const InspectCompareFlags& flags, std::ostream& out);
}  // namespace nibble
