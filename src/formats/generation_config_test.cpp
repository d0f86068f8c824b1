#include "formats/generation_config.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/test_paths.h"

namespace nibble {
namespace {
using Ids = std::vector<int32_t>;

ModelConfig model() {
  ModelConfig m;
  m.vocab_size = 512;
  m.eos_token_ids = {1};
  m.eoi_token_id = 501;
  m.eoa_token_id = 505;
  return m;
}

TEST(GenerationConfig, FileOfTheTinyModel) {
  const GenerationConfig g = read_generation_config(test_data("model/tiny"), model());
  EXPECT_EQ(g.eos_token_ids, (Ids{1, 498, 499}));
  EXPECT_EQ(g.suppress_tokens, (Ids{501, 505}));
  EXPECT_EQ(g.temperature, 1.0f);
  EXPECT_EQ(g.top_k, 64);
  EXPECT_EQ(g.top_p, 0.95f);
  EXPECT_FALSE(g.min_p);
}

TEST(GenerationConfig, WithoutAFileInflatedRowsAreStillSuppressed) {
  const GenerationConfig g = read_generation_config(test_data("quant/seed2"), model());  // a folder without the file
  EXPECT_EQ(g.eos_token_ids, Ids{1});
  EXPECT_EQ(g.suppress_tokens, (Ids{501, 505}));
  EXPECT_FALSE(g.temperature);
}

TEST(GenerationConfig, EndTokensAreTheUnionInsideTheVocabulary) {
  EXPECT_EQ(parse_generation_config(R"({"eos_token_id": 9})", model(), "g").eos_token_ids, (Ids{1, 9}));
  EXPECT_EQ(parse_generation_config(R"({"eos_token_id": [1, 106, 512]})", model(), "g").eos_token_ids, (Ids{1, 106}));
}

TEST(GenerationConfig, FilesOwnSuppressListWins) {
  EXPECT_EQ(parse_generation_config(R"({"suppress_tokens": [7]})", model(), "g").suppress_tokens, Ids{7});
  EXPECT_EQ(parse_generation_config(R"({"suppress_tokens": []})", model(), "g").suppress_tokens, (Ids{501, 505}));
}

TEST(GenerationConfig, TopKOffHasTwoSpellings) {
  EXPECT_FALSE(parse_generation_config(R"({"top_k": 0})", model(), "g").top_k);
  EXPECT_FALSE(parse_generation_config(R"({"top_k": -1})", model(), "g").top_k);
}

TEST(GenerationConfig, ErrorsNameTheKey) {
  const auto error_of = [](std::string_view text) -> std::string {
    try {
      parse_generation_config(text, model(), "g");
    } catch (const Error& error) {
      return error.message;
    }
    return "no error";
  };
  EXPECT_EQ(error_of(R"({"eos_token_id": "x"})"), "g: eos_token_id is \"x\", wanted a token id or an array of token ids");
  EXPECT_EQ(error_of(R"({"temperature": "hot"})"), "g: temperature is \"hot\", wanted a finite number");
}
}  // namespace
}  // namespace nibble
