// `nibble bench compare` and `nibble bench report`: from stored runs to words.
#pragma once

#include <string>
#include <vector>

namespace nibble {
int run_bench_compare(const std::string& a, const std::string& b, bool force);
int run_bench_report(const std::vector<std::string>& runs, const std::string& out);
}  // namespace nibble
