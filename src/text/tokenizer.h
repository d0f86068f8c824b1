// The tokenizer of Gemma 4: BPE over Unicode characters with byte fallback, read from a tokenizer.json.
//
// Text to ids: added tokens are found in the raw text (leftmost, longest); the stretches between have every space replaced by U+2581 and are merged by
// rank, lowest first, leftmost among equals. Nothing is added: no BOS, no dummy prefix.
// Ids to text: see decode(), and detokenizer.h for streams.
//
// Safe for use from many threads after load; caches are per thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace nibble {
// Bytes [begin, end) of a text.
struct TextSpan {
  size_t begin = 0, end = 0;
  bool operator==(const TextSpan&) const = default;
};

class Tokenizer {
 public:
  // `path`: a tokenizer.json or a folder that holds one. Raises not_found, corrupt, or unsupported (a feature that this tokenizer does not have), naming
  // the file, what was found and what is wanted.
  static Tokenizer load(const std::filesystem::path& path);
  static Tokenizer from_json(std::string_view json, std::string_view source);

  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  // Ill-formed UTF-8 becomes U+FFFD first. With parse_special false, text that spells an added token is plain text.
  std::vector<int32_t> encode(std::string_view text, bool parse_special = true) const;
  // Added tokens are recognized only where all of their bytes lie in `trusted` (ascending, disjoint).
  std::vector<int32_t> encode_marked(std::string_view text, std::span<const TextSpan> trusted) const;

  // Ids outside the vocabulary are dropped, with skip_special also the special added tokens. A run of byte tokens that is not valid UTF-8 gives one U+FFFD
  // per byte.
  std::string decode(std::span<const int32_t> ids, bool skip_special) const;

  int32_t vocab_size() const;
  bool contains(int32_t id) const { return id >= 0 && id < vocab_size(); }
  std::optional<int32_t> id_of(std::string_view token) const;  // the vocabulary's own spelling, U+2581 for a space
  std::string_view token_string(int32_t id) const;             // the same; id must be in the vocabulary
  std::string token_bytes(int32_t id) const;                   // what the token stands for: one byte for a byte token, spaces for U+2581
  std::optional<uint8_t> byte_of(int32_t id) const;            // the byte of a byte token
  bool is_special(int32_t id) const;
  std::span<const int32_t> special_ids() const;                // ascending

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};
}  // namespace nibble
