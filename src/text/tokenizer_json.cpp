#include "text/tokenizer_json.h"

#include <simdjson.h>

#include <bit>
#include <cstring>

#include "base/error.h"

namespace nibble {
namespace {
namespace od = simdjson::ondemand;

constexpr std::string_view kSpaceMarkText = "\xE2\x96\x81";

uint64_t hash_of(std::string_view text) {
  uint64_t h = 0x9E3779B97F4A7C15ull ^ text.size();
  size_t at = 0;
  for (; at + 8 <= text.size(); at += 8) {
    uint64_t word;
    std::memcpy(&word, text.data() + at, 8);
    h = std::rotl((h ^ word) * 0xff51afd7ed558ccdull, 29);
  }
  uint64_t tail = 0;
  std::memcpy(&tail, text.data() + at, text.size() - at);
  h = (h ^ tail) * 0xff51afd7ed558ccdull;
  return h ^ (h >> 32);
}

// Reads one file; members carry the source's name into every message.
class Reader {
 public:
  explicit Reader(std::string_view source) : source_(source) {}

  TokenizerData read(std::string_view json) {
    const simdjson::padded_string padded(json);
    od::parser parser;
    od::document document;
    // On-demand parsing takes a broken child for its neighbours; what is read so must be whole JSON first.
    simdjson::dom::parser whole;
    check(whole.parse(padded).error(), "the file");
    check(parser.iterate(padded).get(document), "the file");
    od::object root;
    check(document.get_object().get(root), "the file");
    check_filled(root, "the file");
    read_added(root);
    check_normalizer(root);
    check_decoder(root);
    od::object model;
    check(root.find_field_unordered("model").get_object().get(model), "model");
    check_filled(model, "model");
    read_model(model);
    place_added();
    return std::move(data_);
  }

 private:
  void check(simdjson::error_code code, std::string_view what) const {
    if (code != simdjson::SUCCESS) raise(ErrorCode::corrupt, "{}: {}: {}", source_, what, simdjson::error_message(code));
  }
  // Whether a field that may be absent or of another type is there. Any other error means that the text is no JSON; the parser must not be used after it.
  bool found(simdjson::error_code code, std::string_view what) const {
    if (code == simdjson::NO_SUCH_FIELD || code == simdjson::INCORRECT_TYPE) return false;
    check(code, what);
    return true;
  }
  // simdjson 3.0 cannot look for two fields in an empty object.
  void check_filled(od::object& object, std::string_view what) const {
    bool is_empty = false;
    check(object.is_empty().get(is_empty), what);
    if (is_empty) raise(ErrorCode::corrupt, "{}: {}: an empty object", source_, what);
  }
  template <typename... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) const {
    raise(ErrorCode::unsupported, "{}: {}", source_, fmt::format(format, std::forward<Args>(args)...));
  }

  bool flag(od::object& object, const char* key) const {
    bool value = false;
    od::value field;
    if (!found(object.find_field_unordered(key).get(field), key)) return false;
    bool is_null = false;
    check(field.is_null().get(is_null), key);
    if (is_null) return false;
    check(field.get_bool().get(value), key);
    return value;
  }
  std::string text(od::object& object, const char* key, std::string_view what) const {
    std::string_view value;
    check(object.find_field_unordered(key).get_string().get(value), fmt::format("{}.{}", what, key));
    return std::string(value);
  }

  void read_added(od::object& root) {
    od::array tokens;
    if (!found(root.find_field_unordered("added_tokens").get_array().get(tokens), "added_tokens")) return;
    for (auto element : tokens) {
      od::object token;
      check(element.get_object().get(token), "added_tokens");
      check_filled(token, "added_tokens");
      int64_t id;
      check(token.find_field_unordered("id").get_int64().get(id), "added_tokens.id");
      Pending pending{id, text(token, "content", "added_tokens"), flag(token, "special")};
      if (pending.content.empty()) raise(ErrorCode::corrupt, "{}: added token {} is empty", source_, id);
      for (const char* key : {"single_word", "lstrip", "rstrip"}) {
        if (flag(token, key)) refuse("added token {} has {}, which is not supported", pending.content, key);
      }
      pending_.push_back(std::move(pending));
    }
  }

  // {"type": "Replace", "pattern": {"String": from}, "content": to}
  bool is_replace(od::object& object, std::string_view from, std::string_view to) const {
    check_filled(object, "Replace");
    if (text(object, "type", "Replace") != "Replace") return false;
    od::object pattern;
    if (!found(object.find_field_unordered("pattern").get_object().get(pattern), "pattern")) return false;
    check_filled(pattern, "pattern");
    std::string_view value;
    if (!found(pattern.find_field_unordered("String").get_string().get(value), "pattern") || value != from) return false;
    return found(object.find_field_unordered("content").get_string().get(value), "content") && value == to;
  }

  void check_normalizer(od::object& root) const {
    od::object normalizer;
    if (!found(root.find_field_unordered("normalizer").get_object().get(normalizer), "normalizer") || !is_replace(normalizer, " ", kSpaceMarkText)) {
      refuse("normalizer must be Replace \" \" by \"{}\" (Gemma's); another one is not supported", kSpaceMarkText);
    }
  }

  void check_decoder(od::object& root) const {
    constexpr std::string_view kWanted = "decoder must be Sequence[Replace, ByteFallback, Fuse] (Gemma's); another one is not supported";
    od::object decoder;
    od::array steps;
    if (!found(root.find_field_unordered("decoder").get_object().get(decoder), "decoder")) refuse("{}", kWanted);
    check_filled(decoder, "decoder");
    if (text(decoder, "type", "decoder") != "Sequence" ||
        !found(decoder.find_field_unordered("decoders").get_array().get(steps), "decoder")) {
      refuse("{}", kWanted);
    }
    size_t index = 0;
    for (auto element : steps) {
      od::object step;
      check(element.get_object().get(step), "decoder");
      check_filled(step, "decoder");
      const bool right = index == 0   ? is_replace(step, kSpaceMarkText, " ")
                         : index == 1 ? text(step, "type", "decoder") == "ByteFallback"
                         : index == 2 ? text(step, "type", "decoder") == "Fuse"
                                      : false;
      if (!right) refuse("{}", kWanted);
      ++index;
    }
    if (index != 3) refuse("{}", kWanted);
  }

  void read_model(od::object& model) {
    const std::string type = text(model, "type", "model");
    if (type != "BPE") refuse("model.type is {}, only BPE is supported", type);
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      std::string_view value;
      if (found(model.find_field_unordered(key).get_string().get(value), key) && !value.empty()) refuse("model.{} is not supported", key);
    }
    double dropout;
    if (found(model.find_field_unordered("dropout").get_double().get(dropout), "model.dropout") && dropout > 0) refuse("model.dropout is not supported");
    if (!flag(model, "byte_fallback")) refuse("model.byte_fallback must be true");
    if (flag(model, "ignore_merges")) refuse("model.ignore_merges is not supported");
    read_vocab(model);
    read_merges(model);
  }

  void read_vocab(od::object& model) {
    od::object vocab;
    check(model.find_field_unordered("vocab").get_object().get(vocab), "model.vocab");
    struct Entry {
      uint32_t begin, length;
    };
    std::vector<Entry> by_id;
    std::string strings;
    size_t count = 0;
    for (auto field : vocab) {
      std::string_view token;
      int64_t id;
      check(field.unescaped_key().get(token), "model.vocab");
      check(field.value().get_int64().get(id), "model.vocab");
      if (id < 0 || id > 16'000'000) raise(ErrorCode::corrupt, "{}: model.vocab: id {} of '{}' is out of range", source_, id, token);
      if (static_cast<size_t>(id) >= by_id.size()) by_id.resize(std::max(by_id.size() * 2, static_cast<size_t>(id) + 1), {0, ~0u});
      if (by_id[static_cast<size_t>(id)].length != ~0u) raise(ErrorCode::corrupt, "{}: model.vocab: id {} stands for two tokens", source_, id);
      by_id[static_cast<size_t>(id)] = {static_cast<uint32_t>(strings.size()), static_cast<uint32_t>(token.size())};
      strings += token;
      ++count;
    }
    // Added tokens may lie behind the vocabulary proper.
    for (const Pending& added : pending_) {
      if (added.id < 0 || added.id > 16'000'000) raise(ErrorCode::corrupt, "{}: added token {}: id {} is out of range", source_, added.content, added.id);
      if (static_cast<size_t>(added.id) >= by_id.size()) by_id.resize(static_cast<size_t>(added.id) + 1, {0, ~0u});
      Entry& entry = by_id[static_cast<size_t>(added.id)];
      if (entry.length == ~0u) {
        entry = {static_cast<uint32_t>(strings.size()), static_cast<uint32_t>(added.content.size())};
        strings += added.content;
        ++count;
      }
    }
    if (count == 0) raise(ErrorCode::corrupt, "{}: model.vocab is empty", source_);
    data_.strings.reserve(strings.size());
    data_.offsets.reserve(count + 1);
    for (size_t id = 0; id < count; ++id) {
      if (id >= by_id.size() || by_id[id].length == ~0u) raise(ErrorCode::corrupt, "{}: model.vocab: {} tokens, but none with id {}; ids must be dense", source_, count, id);
      data_.offsets.push_back(static_cast<uint32_t>(data_.strings.size()));
      data_.strings.append(strings, by_id[id].begin, by_id[id].length);
    }
    data_.offsets.push_back(static_cast<uint32_t>(data_.strings.size()));
    data_.index.build(data_);
    for (size_t id = 0; id < count; ++id) {
      const auto found = data_.index.find(data_, data_.token(id));
      if (found != static_cast<int32_t>(id)) raise(ErrorCode::corrupt, "{}: model.vocab: '{}' has two ids, {} and {}", source_, data_.token(id), found.value_or(-1), id);
    }
  }

  int32_t id_of(std::string_view token, size_t rank) const {
    const auto id = data_.index.find(data_, token);
    if (!id) raise(ErrorCode::corrupt, "{}: model.merges[{}]: '{}' is not in the vocabulary", source_, rank, token);
    return *id;
  }

  void add_merge(std::string_view left, std::string_view right, std::string& joined) {
    const size_t rank = data_.merges.size();
    joined.assign(left).append(right);
    data_.merges.push_back({id_of(left, rank), id_of(right, rank), id_of(joined, rank)});
  }

  void read_merges(od::object& model) {
    od::array merges;
    check(model.find_field_unordered("merges").get_array().get(merges), "model.merges");
    data_.merges.reserve(data_.offsets.size() * 2);
    std::string left, joined;
    for (auto element : merges) {
      od::value value;
      check(element.get(value), "model.merges");
      od::json_type type;
      check(value.type().get(type), "model.merges");
      if (type == od::json_type::string) {  // the older spelling: "l r"
        std::string_view both;
        check(value.get_string().get(both), "model.merges");
        const size_t space = both.find(' ', 1);
        if (space == std::string_view::npos) raise(ErrorCode::corrupt, "{}: model.merges[{}]: '{}' is not two tokens", source_, data_.merges.size(), both);
        add_merge(both.substr(0, space), both.substr(space + 1), joined);
        continue;
      }
      od::array pair;
      check(value.get_array().get(pair), "model.merges");
      std::string_view parts[2];
      size_t n = 0;
      for (auto part : pair) {
        if (n == 2) raise(ErrorCode::corrupt, "{}: model.merges[{}] has more than two parts", source_, data_.merges.size());
        check(part.get_string().get(parts[n]), "model.merges");
        ++n;
      }
      if (n != 2) raise(ErrorCode::corrupt, "{}: model.merges[{}] has {} parts, wanted 2", source_, data_.merges.size(), n);
      add_merge(parts[0], parts[1], joined);
    }
  }

  void place_added() {
    for (const Pending& added : pending_) {
      if (data_.token(static_cast<size_t>(added.id)) != added.content) {
        raise(ErrorCode::corrupt, "{}: added token {} has id {}, which the vocabulary gives to '{}'", source_, added.content, added.id,
              data_.token(static_cast<size_t>(added.id)));
      }
      data_.added.push_back({static_cast<int32_t>(added.id), added.special});
    }
  }

  struct Pending {
    int64_t id;
    std::string content;
    bool special;
  };
  std::string source_;
  TokenizerData data_;
  std::vector<Pending> pending_;
};
}  // namespace

void TokenIndex::build(const TokenizerData& data) {
  const size_t size = data.offsets.size() - 1;
  const uint64_t slots = std::bit_ceil(std::max<uint64_t>(16, size * 2));
  slots_.assign(slots, -1);
  mask_ = slots - 1;
  for (size_t id = 0; id < size; ++id) {
    uint64_t slot = hash_of(data.token(id)) & mask_;
    while (slots_[slot] >= 0 && data.token(static_cast<size_t>(slots_[slot])) != data.token(id)) slot = (slot + 1) & mask_;
    if (slots_[slot] < 0) slots_[slot] = static_cast<int32_t>(id);
  }
}

std::optional<int32_t> TokenIndex::find(const TokenizerData& data, std::string_view token) const {
  for (uint64_t slot = hash_of(token) & mask_;; slot = (slot + 1) & mask_) {
    if (slots_[slot] < 0) return std::nullopt;
    if (data.token(static_cast<size_t>(slots_[slot])) == token) return slots_[slot];
  }
}

TokenizerData parse_tokenizer_json(std::string_view json, std::string_view source) { return Reader(source).read(json); }
}  // namespace nibble
