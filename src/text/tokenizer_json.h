// tokenizer.json as data: the strings of the vocabulary, the merges as ids, the added tokens. Everything that this program does not do is refused here.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/bpe.h"

namespace nibble {
struct TokenizerData;

// String to id, open addressing over the strings themselves.
class TokenIndex {
 public:
  void build(const TokenizerData& data);
  std::optional<int32_t> find(const TokenizerData& data, std::string_view token) const;

 private:
  std::vector<int32_t> slots_;  // ids, -1: empty
  uint64_t mask_ = 0;
};

struct AddedToken {
  int32_t id;
  bool special;
};

struct TokenizerData {
  std::string strings;             // all tokens, one after another
  std::vector<uint32_t> offsets;   // [size + 1]
  std::vector<BpeMerge> merges;    // in order of rank
  std::vector<AddedToken> added;
  TokenIndex index;

  std::string_view token(size_t id) const { return std::string_view(strings).substr(offsets[id], offsets[id + 1] - offsets[id]); }
};

// Raises corrupt or unsupported, naming `source`.
TokenizerData parse_tokenizer_json(std::string_view json, std::string_view source);
}  // namespace nibble
