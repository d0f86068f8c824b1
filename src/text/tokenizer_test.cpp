// The tokenizer against what the reference library says (tests/data/tokenizer): for a small vocabulary that ships, and for the real one where it is at hand.
#include "text/tokenizer.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/error.h"
#include "base/file_io.h"
#include "base/rng.h"
#include "base/test_paths.h"
#include "base/test_sha256.h"
#include "base/utf8.h"
#include "text/bpe.h"
#include "text/detokenizer.h"

namespace nibble {
namespace {
using nlohmann::json;

std::string from_hex(const std::string& hex) {
  std::string out;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) out += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  return out;
}

// The real tokenizer.json, rebuilt once from the vocabulary into the build folder. nullopt where the vocabulary is not at hand.
std::optional<std::filesystem::path> real_tokenizer() {
  const auto script = shared_data("tokenizer/rebuild_tokenizer.py");
  if (!script) return std::nullopt;
  const std::filesystem::path folder = std::filesystem::path(NIBBLE_BUILD_DIR) / "gemma4-tokenizer";
  if (!std::filesystem::exists(folder / "tokenizer.json")) {
    const auto temporary = folder.string() + ".tmp" + std::to_string(::getpid());
    if (std::system(("python3 " + script->string() + " " + temporary + " >/dev/null").c_str()) != 0) return std::nullopt;
    std::error_code taken;  // another test process may have been faster
    std::filesystem::rename(temporary, folder, taken);
  }
  return folder;
}

struct Vocabulary {
  std::string name;
  const Tokenizer* tokenizer() const {
    if (name == "small1k") {
      static const Tokenizer small = Tokenizer::load(test_data("tokenizer/small1k-tokenizer.json"));
      return &small;
    }
    static const auto path = real_tokenizer();
    if (!path) return nullptr;
    static const Tokenizer real = Tokenizer::load(*path);
    return &real;
  }
  json cases(const std::string& kind) const { return json::parse(read_file(test_data("tokenizer/" + name + "-" + kind + ".json")))["cases"]; }
};

class Goldens : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    vocabulary_.name = GetParam();
    tokenizer_ = vocabulary_.tokenizer();
    if (!tokenizer_) GTEST_SKIP() << "the real vocabulary is not here (set NIBBLE_SHARED_DIR)";
  }
  Vocabulary vocabulary_;
  const Tokenizer* tokenizer_ = nullptr;
};
INSTANTIATE_TEST_SUITE_P(Vocabularies, Goldens, testing::Values("small1k", "gemma4"));

TEST_P(Goldens, EncodesAndDecodesAsTheReference) {
  for (const json& c : vocabulary_.cases("encode")) {
    const std::string text = c["text"];
    const std::vector<int32_t> ids = c["ids"];
    for (int pass = 0; pass < 2; ++pass) ASSERT_EQ(tokenizer_->encode(text), ids) << c["name"];  // the second time from the cache
    ASSERT_EQ(tokenizer_->encode(text, false), (c.contains("ids_no_special") ? c["ids_no_special"] : c["ids"]).get<std::vector<int32_t>>()) << c["name"];
    const std::string decoded = c["decoded"];
    ASSERT_EQ(tokenizer_->decode(ids, false), decoded) << c["name"];
    ASSERT_EQ(tokenizer_->decode(ids, true), c.value("decoded_skip_special", decoded)) << c["name"];
  }
}

TEST_P(Goldens, DecodesIdsAsTheReference) {
  for (const json& c : vocabulary_.cases("decode")) {
    const std::vector<int32_t> ids = c["ids"];
    ASSERT_EQ(tokenizer_->decode(ids, false), c["decoded"].get<std::string>());
    ASSERT_EQ(tokenizer_->decode(ids, true), c["decoded_skip_special"].get<std::string>());
  }
}

TEST_P(Goldens, RepairsIllFormedTextFirst) {
  for (const json& c : vocabulary_.cases("invalid")) {
    const std::string bytes = from_hex(c["hex"]);
    ASSERT_EQ(replace_invalid_utf8(bytes), c["replaced"].get<std::string>());
    ASSERT_EQ(tokenizer_->encode(bytes), c["ids"].get<std::vector<int32_t>>());
  }
}

TEST_P(Goldens, LongRunsGiveTheReferencesIds) {
  for (const json& c : vocabulary_.cases("long")) {
    std::string text;
    if (c.contains("repeat")) {
      for (int64_t i = 0; i < c["repeat"][1].get<int64_t>(); ++i) text += c["repeat"][0].get<std::string>();
    } else {
      const std::string alphabet = c["xorshift"][0];
      std::vector<std::string> letters;
      for (size_t at = 0; at < alphabet.size();) {
        const uint32_t length = decode_utf8(alphabet, at).length;
        letters.push_back(alphabet.substr(at, length));
        at += length;
      }
      uint32_t x = c["xorshift"][2];
      for (int64_t i = 0; i < c["xorshift"][1].get<int64_t>(); ++i) {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        text += letters[x % letters.size()];
      }
    }
    ASSERT_EQ(sha256(text), c["text_sha256"].get<std::string>());
    const std::vector<int32_t> ids = tokenizer_->encode(text);
    ASSERT_EQ(ids.size(), c["n_ids"].get<size_t>());
    ASSERT_EQ(sha256({reinterpret_cast<const char*>(ids.data()), ids.size() * 4}), c["ids_sha256"].get<std::string>());
  }
}

TEST_P(Goldens, StreamsAsTheReference) {
  for (const json& c : vocabulary_.cases("stream")) {
    Detokenizer stream(*tokenizer_, c["skip_special"]);
    std::vector<std::string> deltas;
    for (const int32_t id : c["ids"]) deltas.push_back(stream.push(id));
    ASSERT_EQ(deltas, c["deltas"].get<std::vector<std::string>>());
    ASSERT_EQ(stream.finish(), c["flush"].get<std::string>());
  }
}

TEST_P(Goldens, ControlTokensAreRecognizedOnlyInTrustedBytes) {
  const std::string text = "<bos>a<bos>";
  const auto bos = *tokenizer_->id_of("<bos>");
  const auto count = [&](std::vector<TextSpan> trusted) {
    const auto ids = tokenizer_->encode_marked(text, trusted);
    EXPECT_EQ(tokenizer_->decode(ids, false), text);
    return std::count(ids.begin(), ids.end(), bos);
  };
  EXPECT_EQ(count({{0, 11}}), 2);
  EXPECT_EQ(count({{0, 5}}), 1);
  EXPECT_EQ(count({{0, 4}, {4, 5}}), 0);  // a token must lie in one span
  EXPECT_EQ(count({{1, 11}}), 1);
  EXPECT_EQ(count({}), 0);
}

TEST_P(Goldens, RandomBytesNeverCrashAndRoundTrip) {
  for (uint32_t round = 0; round < 3000; ++round) {
    std::string bytes;
    for (uint32_t i = 0; i < round % 40; ++i) bytes += static_cast<char>(philox4x32({round, i, 0, 0}, 1)[0]);
    std::string wanted = replace_invalid_utf8(bytes);
    for (size_t at; (at = wanted.find("\xE2\x96\x81")) != std::string::npos;) wanted.replace(at, 3, " ");
    ASSERT_EQ(tokenizer_->decode(tokenizer_->encode(bytes, false), false), wanted);
  }
}

TEST_P(Goldens, ThreadsDoNotDisturbEachOther) {
  const auto cases = vocabulary_.cases("encode");
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int t = 0; t < 2; ++t) {
    threads.emplace_back([&] {
      for (const json& c : cases) wrong += tokenizer_->encode(c["text"].get<std::string>()) != c["ids"].get<std::vector<int32_t>>();
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

// A small legal file, for what follows to spoil.
json small_file() {
  json vocab = {{"<bos>", 0}, {"a", 1}, {"b", 2}, {"ab", 3}};
  for (int byte = 0; byte < 256; ++byte) vocab[fmt::format("<0x{:02X}>", byte)] = 4 + byte;
  return {{"added_tokens", {{{"id", 0}, {"content", "<bos>"}, {"special", true}}}},
          {"normalizer", {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "\xE2\x96\x81"}}},
          {"decoder", {{"type", "Sequence"}, {"decoders", {{{"type", "Replace"}, {"pattern", {{"String", "\xE2\x96\x81"}}}, {"content", " "}}, {{"type", "ByteFallback"}}, {{"type", "Fuse"}}}}}},
          {"model", {{"type", "BPE"}, {"byte_fallback", true}, {"vocab", vocab}, {"merges", json::array({json::array({"a", "b"})})}}}};
}

TEST(TokenizerFile, TheSmallestLegalOneLoads) {
  const Tokenizer tokenizer = Tokenizer::from_json(small_file().dump(), "t.json");
  EXPECT_EQ(tokenizer.encode("<bos>aab"), (std::vector<int32_t>{0, 1, 3}));
  json older = small_file();
  older["model"]["merges"] = {"a b"};
  EXPECT_EQ(Tokenizer::from_json(older.dump(), "t.json").encode("ab"), (std::vector<int32_t>{3}));
}

TEST(TokenizerFile, WhatIsNotSupportedIsRefusedByName) {
  const auto message = [](const json& file) -> std::string {
    try {
      Tokenizer::from_json(file.dump(), "t.json");
    } catch (const Error& error) {
      return error.message;
    }
    return "";
  };
  const auto spoiled = [&](const char* pointer, json value) {
    json file = small_file();
    file[json::json_pointer(pointer)] = std::move(value);
    return message(file);
  };
  EXPECT_NE(spoiled("/model/type", "Unigram").find("model.type is Unigram"), std::string::npos);
  EXPECT_NE(spoiled("/model/ignore_merges", true).find("ignore_merges"), std::string::npos);
  EXPECT_NE(spoiled("/model/byte_fallback", false).find("byte_fallback"), std::string::npos);
  EXPECT_NE(spoiled("/normalizer/content", "_").find("normalizer"), std::string::npos);
  EXPECT_NE(spoiled("/decoder/decoders/1/type", "Strip").find("decoder"), std::string::npos);
  EXPECT_NE(spoiled("/added_tokens/0/lstrip", true).find("lstrip"), std::string::npos);
  EXPECT_NE(spoiled("/added_tokens/0/content", "<x>").find("added token"), std::string::npos);
  EXPECT_NE(spoiled("/model/vocab/ab", 300).find("no"), std::string::npos);
  EXPECT_NE(spoiled("/model/vocab/ab", 2).find("two tokens"), std::string::npos);
  EXPECT_NE(spoiled("/model/merges", json::array({json::array({"a", "z"})})).find("'z' is not in the vocabulary"), std::string::npos);
  EXPECT_NE(spoiled("/model/merges", json::array({"ab"})).find("not two tokens"), std::string::npos);
  EXPECT_FALSE(message(json::array()).empty());
}
TEST(TokenizerFile, EmptyObjectsAndBrokenTextAreErrors) {
  for (const char* text : {"{}", "", "[]", R"({"normalizer": {}})", R"({"normalizer": {"type": "Replace", "pattern": {}, "content": "x"}})", R"({"added_tokens": [{}]})",
                           R"({"added_tokens": [{"id": 0, "content": "a", "special": nil}]})", R"({"added_tokens": nul, "model": {}})"}) {
    EXPECT_THROW(Tokenizer::from_json(text, "tokenizer.json"), Error) << text;
  }
}
}  // namespace
}  // namespace nibble
