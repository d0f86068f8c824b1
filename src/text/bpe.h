// The merge part of the tokenizer: a stretch of text to ids.
//
// A merge can only produce a string of the vocabulary, so two neighbouring characters that stand side by side in no producible token can never end up in one
// token. Text is cut at every such pair, the pieces (3 characters on average) are encoded apart and concatenated: the same ids, in linear time. A bounded cache
// per thread answers the frequent pieces.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace nibble {
struct BpeMerge {
  int32_t left, right, result;  // in order of rank
};

class Bpe {
 public:
  static constexpr uint32_t kSpaceMark = 0x2581;

  // `tokens[id]` is the string of an id; byte_ids[b] the id of byte b.
  void build(const std::vector<std::string_view>& tokens, const std::vector<BpeMerge>& merges, const std::vector<int32_t>& byte_ids);

  // Appends the ids of `text`, valid UTF-8; spaces count as U+2581.
  void encode(std::string_view text, std::vector<int32_t>& ids) const;
  // The same without cutting and caching: what encode() is tested against.
  void encode_whole(std::string_view text, std::vector<int32_t>& ids) const;

 private:
  struct Slot {
    uint64_t pair = kEmpty;
    uint32_t rank = 0;
    int32_t result = 0;
  };
  static constexpr uint64_t kEmpty = ~uint64_t{0};
  static constexpr uint32_t kNoRank = ~uint32_t{0};

  const Slot* find(int32_t left, int32_t right) const;
  bool may_join(uint32_t a, uint32_t b) const;
  void append_symbols(std::string_view text, std::vector<int32_t>& symbols) const;
  void merge(std::vector<int32_t>& symbols, size_t from) const;
  void merge_short(int32_t* symbols, size_t& count) const;
  void merge_long(std::vector<int32_t>& symbols, size_t from) const;
  void encode_piece(std::string_view piece, std::vector<int32_t>& ids) const;

  std::vector<Slot> merges_;  // open addressing, at most half full
  uint64_t merge_mask_ = 0;
  size_t num_ranks_ = 0;
  std::vector<uint64_t> joins_;  // pairs of characters that some token holds side by side; open addressing
  uint64_t join_mask_ = 0;
  std::vector<uint8_t> ascii_joins_;  // [128][128], spaces as themselves
  std::vector<int32_t> char_ids_;     // by code point, -1: byte fallback
  int32_t byte_ids_[256] = {};
  uint64_t generation_ = 0;           // tells the per-thread cache whose pieces it holds
};
}  // namespace nibble
