#include "text/tokenizer.h"

#include <simdjson.h>

#include <algorithm>
#include <array>

#include "base/error.h"
#include "base/file_io.h"
#include "base/utf8.h"
#include "text/bpe.h"
#include "text/tokenizer_json.h"

namespace nibble {
struct Tokenizer::Impl {
  TokenizerData data;
  std::vector<std::string_view> tokens;     // by id, into data.strings
  std::vector<int16_t> byte_values;         // by id: the byte, -1 for others
  std::vector<bool> special;                // by id
  std::vector<int32_t> special_ids;
  std::array<std::vector<int32_t>, 256> added_by_first_byte;  // longest first
  int only_first_byte = -1;                 // when all added tokens begin with the same byte
  Bpe bpe;

  // The longest added token at `at`, -1 for none.
  int32_t added_at(std::string_view text, size_t at) const {
    for (const int32_t id : added_by_first_byte[static_cast<uint8_t>(text[at])]) {
      if (text.substr(at).starts_with(tokens[static_cast<size_t>(id)])) return id;
    }
    return -1;
  }
  size_t next_candidate(std::string_view text, size_t at) const {
    if (only_first_byte >= 0) return std::min(text.find(static_cast<char>(only_first_byte), at), text.size());
    while (at < text.size() && added_by_first_byte[static_cast<uint8_t>(text[at])].empty()) ++at;
    return at;
  }
};

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Tokenizer Tokenizer::load(const std::filesystem::path& path) {
  const auto file = std::filesystem::is_directory(path) ? path / "tokenizer.json" : path;
  if (!std::filesystem::exists(file)) raise(ErrorCode::not_found, "{}: no such tokenizer; the folder must hold a tokenizer.json", file.string());
  return from_json(read_file(file), file.string());
}

namespace {
// <0x00>..<0xFF>, upper-case hex; -1 otherwise.
int byte_token_value(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
  const auto digit = [](char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1; };
  const int high = digit(token[3]), low = digit(token[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}
}  // namespace

Tokenizer Tokenizer::from_json(std::string_view json, std::string_view source) {
  auto impl = std::make_unique<Impl>();
  impl->data = parse_tokenizer_json(json, source);
  const TokenizerData& data = impl->data;
  const size_t size = data.offsets.size() - 1;
  impl->byte_values.assign(size, -1);
  impl->special.assign(size, false);
  std::vector<int32_t> byte_ids(256, -1);
  for (size_t id = 0; id < size; ++id) {
    impl->tokens.push_back(data.token(id));
    const int byte = byte_token_value(impl->tokens.back());
    impl->byte_values[id] = static_cast<int16_t>(byte);
    if (byte >= 0) byte_ids[static_cast<size_t>(byte)] = static_cast<int32_t>(id);
  }
  for (int byte = 0; byte < 256; ++byte) {
    if (byte_ids[static_cast<size_t>(byte)] < 0) raise(ErrorCode::corrupt, "{}: byte fallback wants a token <0x{:02X}>, the vocabulary has none", source, byte);
  }
  for (const AddedToken& added : data.added) {
    impl->added_by_first_byte[static_cast<uint8_t>(impl->tokens[static_cast<size_t>(added.id)][0])].push_back(added.id);
    if (added.special) impl->special[static_cast<size_t>(added.id)] = true;
  }
  int first_bytes = 0;
  for (size_t byte = 0; byte < 256; ++byte) {
    auto& ids = impl->added_by_first_byte[byte];
    std::stable_sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) { return impl->tokens[static_cast<size_t>(a)].size() > impl->tokens[static_cast<size_t>(b)].size(); });
    if (!ids.empty()) impl->only_first_byte = ++first_bytes == 1 ? static_cast<int>(byte) : -1;
  }
  for (size_t id = 0; id < size; ++id) {
    if (impl->special[id]) impl->special_ids.push_back(static_cast<int32_t>(id));
  }
  impl->bpe.build(impl->tokens, data.merges, byte_ids);
  impl->data.merges = {};
  return Tokenizer(std::move(impl));
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool parse_special) const {
  const TextSpan all{0, std::string_view::npos};
  return encode_marked(text, parse_special ? std::span(&all, 1) : std::span<const TextSpan>());
}

std::vector<int32_t> Tokenizer::encode_marked(std::string_view text, std::span<const TextSpan> trusted) const {
  std::string repaired;
  std::vector<TextSpan> moved;
  if (!simdjson::validate_utf8(text.data(), text.size())) {
    // Repair piece by piece, so that the spans keep their meaning.
    size_t at = 0;
    for (const TextSpan& span : trusted) {
      const size_t begin = std::min(span.begin, text.size()), end = std::min(span.end, text.size());
      repaired += replace_invalid_utf8(text.substr(at, begin - at));
      const size_t moved_begin = repaired.size();
      repaired += replace_invalid_utf8(text.substr(begin, end - begin));
      moved.push_back({moved_begin, repaired.size()});
      at = end;
    }
    repaired += replace_invalid_utf8(text.substr(at));
    text = repaired;
    trusted = moved;
  }
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 3 + 8);
  size_t begin = 0;  // of the stretch not yet encoded
  for (const TextSpan& span : trusted) {
    const size_t end = std::min(span.end, text.size());
    for (size_t at = impl_->next_candidate(text, span.begin); at < end;) {
      const int32_t id = impl_->added_at(text.substr(0, end), at);
      if (id < 0) {
        at = impl_->next_candidate(text, at + 1);
        continue;
      }
      impl_->bpe.encode(text.substr(begin, at - begin), ids);
      ids.push_back(id);
      begin = at + impl_->tokens[static_cast<size_t>(id)].size();
      at = impl_->next_candidate(text, begin);
    }
  }
  impl_->bpe.encode(text.substr(begin), ids);
  return ids;
}

namespace {
// Appends with every U+2581 as a space.
void append_with_spaces(std::string& out, std::string_view token) {
  constexpr std::string_view kMark = "\xE2\x96\x81";
  for (size_t at = 0;;) {
    const size_t mark = token.find(kMark, at);
    out.append(token, at, mark - at);
    if (mark == std::string_view::npos) return;
    out += ' ';
    at = mark + kMark.size();
  }
}
}  // namespace

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  std::string out, bytes;
  out.reserve(ids.size() * 4);
  const auto flush = [&] {
    if (bytes.empty()) return;
    if (is_valid_utf8(bytes)) {
      out += bytes;
    } else {
      for (size_t i = 0; i < bytes.size(); ++i) out += "\xEF\xBF\xBD";
    }
    bytes.clear();
  };
  for (const int32_t id : ids) {
    if (!contains(id) || (skip_special && is_special(id))) continue;
    if (const int byte = impl_->byte_values[static_cast<size_t>(id)]; byte >= 0) {
      bytes += static_cast<char>(byte);
      continue;
    }
    flush();
    append_with_spaces(out, impl_->tokens[static_cast<size_t>(id)]);
  }
  flush();
  return out;
}

int32_t Tokenizer::vocab_size() const { return static_cast<int32_t>(impl_->tokens.size()); }
std::optional<int32_t> Tokenizer::id_of(std::string_view token) const { return impl_->data.index.find(impl_->data, token); }
std::string_view Tokenizer::token_string(int32_t id) const { return impl_->tokens[static_cast<size_t>(id)]; }
bool Tokenizer::is_special(int32_t id) const { return contains(id) && impl_->special[static_cast<size_t>(id)]; }
std::span<const int32_t> Tokenizer::special_ids() const { return impl_->special_ids; }

std::optional<uint8_t> Tokenizer::byte_of(int32_t id) const {
  const int byte = impl_->byte_values[static_cast<size_t>(id)];
  return byte < 0 ? std::nullopt : std::optional(static_cast<uint8_t>(byte));
}

std::string Tokenizer::token_bytes(int32_t id) const {
  if (const auto byte = byte_of(id)) return std::string(1, static_cast<char>(*byte));
  std::string out;
  append_with_spaces(out, token_string(id));
  return out;
}
}  // namespace nibble
