// What a quantization run has safely written, kept beside the output so that an interrupted run goes on: a first line with the fingerprint of everything
// that decides the output, then one JSON line a tensor. A line that a crash cut, and what follows it, does not count.
#pragma once

#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "kernels/quantize_weights.h"

namespace nibble {
class Journal {
 public:
  // Takes over the entries of an earlier run with the same fingerprint; forgets any other. Raises unavailable while another process holds it.
  Journal(std::filesystem::path path, const std::string& fingerprint);
  Journal(const Journal&) = delete;
  ~Journal();

  std::optional<QuantError> find(const std::string& tensor) const;
  void add(const std::string& tensor, const QuantError& error);  // remembered, not yet written
  void flush();                                                  // after the tensors' own bytes are safe

 private:
  std::filesystem::path path_;
  std::map<std::string, QuantError> done_;
  std::string pending_;
  std::ofstream out_;
  int lock_ = -1;
};
}  // namespace nibble
