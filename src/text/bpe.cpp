#include "text/bpe.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>
#include <memory>
#include <utility>

#include "base/utf8.h"

namespace nibble {
namespace {
constexpr size_t kShort = 32;  // symbols; up to here the quadratic merge wins over the heap

uint64_t mix(uint64_t x) {
  x *= 0x9E3779B97F4A7C15ull;
  return x ^ (x >> 29);
}

// Valid UTF-8 only; a space reads as U+2581.
inline uint32_t next_char(std::string_view text, size_t& at) {
  const auto b = [&](size_t i) { return static_cast<uint32_t>(static_cast<uint8_t>(text[at + i])); };
  const uint32_t b0 = b(0);
  if (b0 < 0x80) {
    ++at;
    return b0 == ' ' ? Bpe::kSpaceMark : b0;
  }
  uint32_t c;
  if (b0 < 0xe0) {
    c = (b0 & 0x1f) << 6 | (b(1) & 0x3f);
    at += 2;
  } else if (b0 < 0xf0) {
    c = (b0 & 0x0f) << 12 | (b(1) & 0x3f) << 6 | (b(2) & 0x3f);
    at += 3;
  } else {
    c = (b0 & 0x07) << 18 | (b(1) & 0x3f) << 12 | (b(2) & 0x3f) << 6 | (b(3) & 0x3f);
    at += 4;
  }
  return c;
}

uint64_t pair_of(uint32_t a, uint32_t b) { return uint64_t{a} << 32 | b; }

// The answers to short pieces. Direct-mapped: a collision just replaces.
struct PieceCache {
  static constexpr size_t kEntries = size_t{1} << 15;
  static constexpr size_t kMaxBytes = 23, kMaxIds = 8;
  struct alignas(64) Entry {
    char text[kMaxBytes];
    uint8_t length = 0;
    int32_t ids[kMaxIds];
    uint8_t count = 0;
  };
  uint64_t generation = 0;
  std::unique_ptr<Entry[]> entries;

  Entry& at(std::string_view piece) {
    uint64_t a = 0, b = 0, c = 0;
    const size_t n = piece.size();
    if (n >= 8) {
      std::memcpy(&a, piece.data(), 8);
      std::memcpy(&b, piece.data() + n - 8, 8);
      if (n > 16) std::memcpy(&c, piece.data() + 8, 8);
    } else {
      for (size_t i = 0; i < n; ++i) a |= static_cast<uint64_t>(static_cast<uint8_t>(piece[i])) << (8 * i);
    }
    return entries[(mix(a ^ mix(b + n) ^ (c << 1)) >> 20) % kEntries];
  }
};
thread_local PieceCache t_cache;
}  // namespace

void Bpe::build(const std::vector<std::string_view>& tokens, const std::vector<BpeMerge>& merges, const std::vector<int32_t>& byte_ids) {
  static std::atomic<uint64_t> generations{0};
  generation_ = ++generations;
  std::copy(byte_ids.begin(), byte_ids.end(), byte_ids_);

  char_ids_.assign(0x110000, -1);
  for (size_t id = 0; id < tokens.size(); ++id) {
    if (tokens[id].empty()) continue;
    const Utf8Step step = decode_utf8(tokens[id], 0);
    if (step.valid && step.length == tokens[id].size()) char_ids_[step.code_point] = static_cast<int32_t>(id);
  }

  num_ranks_ = merges.size();
  const uint64_t merge_slots = std::bit_ceil(std::max<uint64_t>(16, merges.size() * 2));
  merges_.assign(merge_slots, Slot{});
  merge_mask_ = merge_slots - 1;
  std::vector<bool> producible(tokens.size(), false);
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const BpeMerge& m = merges[rank];
    const uint64_t pair = pair_of(static_cast<uint32_t>(m.left), static_cast<uint32_t>(m.right));
    uint64_t slot = mix(pair) & merge_mask_;
    while (merges_[slot].pair != kEmpty && merges_[slot].pair != pair) slot = (slot + 1) & merge_mask_;
    // A pair listed twice keeps its later rank, as the reference's table does.
    merges_[slot] = {pair, static_cast<uint32_t>(rank), m.result};
    producible[static_cast<size_t>(m.result)] = true;
  }

  std::vector<uint64_t> pairs;
  for (size_t id = 0; id < tokens.size(); ++id) {
    if (!producible[id]) continue;
    const std::string_view token = tokens[id];
    size_t at = 0;
    uint32_t before = next_char(token, at);
    while (at < token.size()) {
      const uint32_t c = next_char(token, at);
      pairs.push_back(pair_of(before, c));
      before = c;
    }
  }
  std::sort(pairs.begin(), pairs.end());
  pairs.erase(std::unique(pairs.begin(), pairs.end()), pairs.end());
  const uint64_t join_slots = std::bit_ceil(std::max<uint64_t>(16, pairs.size() * 4));
  joins_.assign(join_slots, kEmpty);
  join_mask_ = join_slots - 1;
  ascii_joins_.assign(128 * 128, 0);
  for (const uint64_t pair : pairs) {
    uint64_t slot = mix(pair) & join_mask_;
    while (joins_[slot] != kEmpty) slot = (slot + 1) & join_mask_;
    joins_[slot] = pair;
    const auto as_ascii = [](uint64_t c) { return c == kSpaceMark ? uint64_t{' '} : c; };
    const uint64_t a = as_ascii(pair >> 32), b = as_ascii(pair & 0xffffffffu);
    if (a < 128 && b < 128) ascii_joins_[a * 128 + b] = 1;
  }
}

const Bpe::Slot* Bpe::find(int32_t left, int32_t right) const {
  const uint64_t pair = pair_of(static_cast<uint32_t>(left), static_cast<uint32_t>(right));
  for (uint64_t slot = mix(pair) & merge_mask_;; slot = (slot + 1) & merge_mask_) {
    if (merges_[slot].pair == pair) return &merges_[slot];
    if (merges_[slot].pair == kEmpty) return nullptr;
  }
}

bool Bpe::may_join(uint32_t a, uint32_t b) const {
  const uint64_t pair = pair_of(a, b);
  for (uint64_t slot = mix(pair) & join_mask_;; slot = (slot + 1) & join_mask_) {
    if (joins_[slot] == pair) return true;
    if (joins_[slot] == kEmpty) return false;
  }
}

void Bpe::append_symbols(std::string_view text, std::vector<int32_t>& symbols) const {
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const uint32_t c = next_char(text, at);
    if (char_ids_[c] >= 0) {
      symbols.push_back(char_ids_[c]);
    } else if (text[begin] == ' ') {  // no token for U+2581: its own bytes
      for (const uint8_t byte : {0xe2, 0x96, 0x81}) symbols.push_back(byte_ids_[byte]);
    } else {
      for (size_t i = begin; i < at; ++i) symbols.push_back(byte_ids_[static_cast<uint8_t>(text[i])]);
    }
  }
}

void Bpe::merge(std::vector<int32_t>& symbols, size_t from) const {
  size_t count = symbols.size() - from;
  if (count <= 1) return;
  if (count > kShort) return merge_long(symbols, from);
  merge_short(symbols.data() + from, count);
  symbols.resize(from + count);
}

void Bpe::merge_short(int32_t* symbols, size_t& count) const {
  const Slot* candidates[kShort];
  for (size_t i = 0; i + 1 < count; ++i) candidates[i] = find(symbols[i], symbols[i + 1]);
  while (count > 1) {
    uint32_t best_rank = kNoRank;
    size_t best = 0;
    for (size_t i = 0; i + 1 < count; ++i) {
      if (candidates[i] && candidates[i]->rank < best_rank) {
        best_rank = candidates[i]->rank;
        best = i;
      }
    }
    if (best_rank == kNoRank) return;
    symbols[best] = candidates[best]->result;
    for (size_t i = best + 1; i + 1 < count; ++i) {
      symbols[i] = symbols[i + 1];
      candidates[i] = candidates[i + 1];  // the last one read is never used
    }
    --count;
    if (best > 0) candidates[best - 1] = find(symbols[best - 1], symbols[best]);
    candidates[best] = best + 1 < count ? find(symbols[best], symbols[best + 1]) : nullptr;
  }
}

// A list of symbols, and the places where each merge may be made. Merges are taken by rank, the places of one by position. A merge never makes room for
// itself (its result is longer than both its parts), so the places of the rank at hand only ever shrink; one of a lower rank, though, takes precedence.
// A place whose symbols have changed since is skipped.
void Bpe::merge_long(std::vector<int32_t>& symbols, size_t from) const {
  struct Places {
    int32_t left, right, result;
    bool in_order = true;
    std::vector<uint32_t> positions;
  };
  constexpr uint32_t kEnd = ~uint32_t{0};
  static thread_local std::vector<int32_t> t_places_of_rank;  // index in `places`, -1: none; all -1 between calls
  if (t_places_of_rank.size() < num_ranks_) t_places_of_rank.resize(num_ranks_, -1);
  const auto count = static_cast<uint32_t>(symbols.size() - from);
  int32_t* ids = symbols.data() + from;
  std::vector<uint32_t> next(count), before(count), ranks;  // `ranks`: a heap of those with places, the lowest on top
  std::vector<Places> places;
  std::vector<uint32_t> used;  // ranks that have an entry in t_places_of_rank
  const auto higher = std::greater<uint32_t>();

  const auto add = [&](const Slot& slot, uint32_t i) {
    int32_t& index = t_places_of_rank[slot.rank];
    if (index < 0) {
      index = static_cast<int32_t>(places.size());
      places.push_back({ids[i], ids[next[i]], slot.result, true, {}});
      used.push_back(slot.rank);
    }
    Places& p = places[static_cast<size_t>(index)];
    if (p.positions.empty()) {
      ranks.push_back(slot.rank);
      std::push_heap(ranks.begin(), ranks.end(), higher);
    } else if (p.positions.back() > i) {
      p.in_order = false;
    }
    p.positions.push_back(i);
  };
  const Slot* last_found = nullptr;
  uint64_t last_pair = kEmpty;
  const auto consider = [&](uint32_t i) -> uint32_t {  // the rank of the merge at i, or kNoRank
    if (next[i] == kEnd) return kNoRank;
    const uint64_t pair = pair_of(static_cast<uint32_t>(ids[i]), static_cast<uint32_t>(ids[next[i]]));
    if (pair != last_pair) {
      last_pair = pair;
      last_found = find(ids[i], ids[next[i]]);
    }
    if (!last_found) return kNoRank;
    add(*last_found, i);
    return last_found->rank;
  };

  for (uint32_t i = 0; i < count; ++i) {
    next[i] = i + 1 < count ? i + 1 : kEnd;
    before[i] = i > 0 ? i - 1 : kEnd;
  }
  for (uint32_t i = 0; i < count; ++i) consider(i);
  while (!ranks.empty()) {
    std::pop_heap(ranks.begin(), ranks.end(), higher);
    const uint32_t rank = ranks.back();
    ranks.pop_back();
    const auto index = static_cast<size_t>(t_places_of_rank[rank]);
    const int32_t left = places[index].left, right = places[index].right, result = places[index].result;
    std::vector<uint32_t> positions = std::exchange(places[index].positions, {});
    if (!std::exchange(places[index].in_order, true)) std::sort(positions.begin(), positions.end());
    for (size_t at = 0; at < positions.size(); ++at) {
      const uint32_t i = positions[at], j = next[i];
      if (ids[i] != left || j == kEnd || ids[j] != right) continue;
      ids[i] = result;
      ids[j] = -1;
      next[i] = next[j];
      if (next[j] != kEnd) before[next[j]] = i;
      const uint32_t lowest = std::min(consider(i), before[i] != kEnd ? consider(before[i]) : kNoRank);
      if (lowest < rank) {  // first that one; the rest of these places waits
        positions.erase(positions.begin(), positions.begin() + static_cast<int64_t>(at) + 1);
        if (!positions.empty()) {
          places[index].positions = std::move(positions);
          ranks.push_back(rank);
          std::push_heap(ranks.begin(), ranks.end(), higher);
        }
        break;
      }
    }
  }
  for (const uint32_t rank : used) t_places_of_rank[rank] = -1;
  uint32_t kept = 0;
  for (uint32_t i = 0; i != kEnd; i = next[i]) ids[kept++] = ids[i];
  symbols.resize(from + kept);
}

void Bpe::encode_piece(std::string_view piece, std::vector<int32_t>& ids) const {
  const bool cacheable = piece.size() <= PieceCache::kMaxBytes;
  PieceCache::Entry* entry = nullptr;
  if (cacheable) {
    entry = &t_cache.at(piece);
    if (entry->length == piece.size() && std::memcmp(entry->text, piece.data(), piece.size()) == 0) {
      ids.insert(ids.end(), entry->ids, entry->ids + entry->count);
      return;
    }
  }
  const size_t from = ids.size();
  append_symbols(piece, ids);
  merge(ids, from);
  const size_t count = ids.size() - from;
  if (entry && count <= PieceCache::kMaxIds) {
    std::memcpy(entry->text, piece.data(), piece.size());
    entry->length = static_cast<uint8_t>(piece.size());
    entry->count = static_cast<uint8_t>(count);
    std::copy_n(ids.begin() + static_cast<int64_t>(from), count, entry->ids);
  }
}

void Bpe::encode(std::string_view text, std::vector<int32_t>& ids) const {
  if (text.empty()) return;
  if (t_cache.generation != generation_) {
    t_cache.generation = generation_;
    t_cache.entries = std::make_unique<PieceCache::Entry[]>(PieceCache::kEntries);
  }
  size_t begin = 0, at = 0;
  uint8_t before_byte = static_cast<uint8_t>(text[0]);
  uint32_t before = next_char(text, at);
  while (true) {
    bool joins = false;
    size_t after = at;
    uint32_t c = 0;
    uint8_t byte = 0;
    if (at < text.size()) {
      byte = static_cast<uint8_t>(text[at]);
      c = next_char(text, after);
      joins = (byte | before_byte) < 0x80 ? ascii_joins_[before_byte * 128u + byte] != 0 : may_join(before, c);
    }
    if (!joins) {
      // A single character with a token of its own is the most frequent piece.
      const bool single = at - begin == 1 && char_ids_[before] >= 0;
      single ? ids.push_back(char_ids_[before]) : encode_piece(text.substr(begin, at - begin), ids);
      begin = at;
    }
    if (at >= text.size()) return;
    at = after;
    before = c;
    before_byte = byte;
  }
}

void Bpe::encode_whole(std::string_view text, std::vector<int32_t>& ids) const {
  const size_t from = ids.size();
  append_symbols(text, ids);
  merge(ids, from);
}
}  // namespace nibble
