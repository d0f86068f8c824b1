// Replies that a grammar keeps to their form: with and without speculation, with the logits on the host and on a device, the same bits.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "engine/engine_test_kit.h"
#include "engine/grammar.h"
#include "text/reply_grammar.h"

namespace nibble {
namespace {
using Json = nlohmann::ordered_json;
constexpr int32_t kStop = 1;
const std::vector<int32_t> kStops{kStop};

// The 97 ids of the model: controls, and one per character from the space on.
const Tokenizer& letters() {
  static const Tokenizer tokenizer = [] {
    Json added = Json::array(), vocab = Json::object();
    int32_t id = 0;
    for (const char* control : {"<pad>", "<stop>", "<|tool_call>", "<tool_call|>", "<|\"|>", "<unk>"}) {
      added.push_back({{"id", id}, {"content", control}, {"single_word", false}, {"lstrip", false}, {"rstrip", false}, {"normalized", false}, {"special", true}});
      vocab[control] = id++;
    }
    for (char c = ' '; id < 97; ++c) vocab[c == ' ' ? "\u2581" : std::string(1, c)] = id++;
    for (int byte = 0; byte < 256; ++byte) vocab[fmt::format("<0x{:02X}>", byte)] = id++;  // beyond the model's ids
    Json json = Json::parse(R"({"version": "1.0", "truncation": null, "padding": null, "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
      "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false}, "post_processor": null,
      "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]},
      "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true,
      "ignore_merges": false, "vocab": {}, "merges": []}})");
    json["added_tokens"] = added;
    json["model"]["vocab"] = vocab;
    return Tokenizer::from_json(json.dump(), "letters");
  }();
  return tokenizer;
}

std::shared_ptr<const Grammar> compiled(const GrammarSource& source) {
  static GrammarCompiler compiler(letters(), kStops);
  return value_or_raise(compiler.compile(source.ebnf, source.root));
}

// What a model on a device does: it keeps the logits, and tells their candidates.
class KeepsLogits final : public ForwardModel {
 public:
  explicit KeepsLogits(PageHashModel& inner) : inner_(inner) {}
  int32_t vocab_size() const override { return inner_.vocab_size(); }
  const KvGeometry& kv_geometry() const override { return inner_.kv_geometry(); }
  int32_t max_rows() const override { return inner_.max_rows(); }
  int32_t kept_logit_rows() const override { return 400; }
  void forward(const Step& step, float* logits) override {
    rows_ = static_cast<int64_t>(step.logit_rows.size());
    kept_.assign(step.logit_rows.size() * 97, 0.0f);
    inner_.forward(step, logits ? logits : kept_.data());
  }
  void candidates(std::span<const LogitEdit> edits, const AllowedIds& allowed, std::span<const float> temperatures, int32_t count, Candidate* out, RowSummary* summaries) override {
    cpu::find_candidates({kept_.data(), DType::f32, {rows_, 97}}, edits, allowed, temperatures, count, out, summaries);
  }
  void read_logits(int32_t row, float* logits) override { std::copy_n(kept_.begin() + row * 97, 97, logits); }

 private:
  PageHashModel& inner_;
  int64_t rows_ = 0;
  std::vector<float> kept_;
};

struct Case {
  std::shared_ptr<const Grammar> grammar;  // null: free
  std::vector<int32_t> prompt;
  float temperature;
  int32_t top_k;
};

std::vector<Case> cases() {
  const ReplyGrammars grammars(letters(), kStops, 2);
  const Json person = Json::parse(R"({"type": "object", "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 50}, "b": {"enum": ["x", "yz"]}, "c": {"type": "boolean"}}, "required": ["a"]})");
  const std::vector<ToolDeclaration> tools{{"add", &person, true}, {"stop", nullptr, false}};
  const std::vector<std::shared_ptr<const Grammar>> all{compiled(grammars.json_schema(person, true, ThoughtFirst::none)), compiled(grammars.calls(tools, false, ThoughtFirst::none)),
                                                        compiled(grammars.free_with_calls(tools)), compiled(grammars.regex("[a-c]{1,6}z?", ThoughtFirst::none)), nullptr};
  std::vector<Case> out;
  for (uint32_t i = 0; i < 40; ++i) out.push_back({all[i % all.size()], prompt_of(i + 1, 5 + static_cast<int32_t>(i) * 7 % 90, 32), i % 3 == 0 ? 0.0f : 1.5f, i % 4 == 0 ? -1 : 20});
  return out;
}

std::unique_ptr<Request> request_of(Collector& collector, const Case& c, uint32_t i) {
  auto request = collector.request(std::to_string(i), c.prompt, 40, i);
  request->sampling.temperature = c.temperature;
  request->sampling.top_k = c.top_k;
  request->stop_ids = kStops;
  request->grammar = c.grammar;
  request->grammar_stop_ids = kStops;
  return request;
}

void expect_kept_to(const Case& c, const Reply& reply) {
  if (!c.grammar) return;
  GrammarMatcher matcher(c.grammar, kStops);
  for (const int32_t id : reply.ids) ASSERT_TRUE(matcher.accept(id));
  EXPECT_EQ(matcher.ended(), reply.finish == FinishReason::stop_token);
}

TEST(Structured, RepliesKeepToTheirGrammarsAndAreTheSameBitsWithAnyGuesses) {
  const std::vector<Case> all = cases();
  for (const bool kept : {false, true}) {
    std::vector<Reply> want;
    int ended = 0;
    for (uint32_t i = 0; i < all.size(); ++i) {
      PageHashModel roomy(512, 512, 48);
      KeepsLogits keeps(roomy);
      Collector collector;
      Engine engine(kept ? static_cast<ForwardModel&>(keeps) : roomy, {});
      ASSERT_TRUE(engine.submit(request_of(collector, all[i], i)).has_value());
      ASSERT_TRUE(collector.wait_for(1));
      want.push_back(collector.reply(std::to_string(i)));
      expect_kept_to(all[i], want.back());
      ended += all[i].grammar && want.back().finish == FinishReason::stop_token;
    }
    EXPECT_GE(ended, 8);  // the others are cut off
    struct Variant {
      int32_t pages, drafts;
      uint32_t wrong_one_in;
    };
    for (const Variant& v : {Variant{512, 5, 4}, Variant{512, 7, 1}, Variant{26, 5, 3}}) {
      PageHashModel model(v.pages, v.pages, 48, 400);
      KeepsLogits keeps(model);
      KnowingDrafter drafter(model, v.wrong_one_in);
      for (size_t i = 0; i < all.size(); ++i) {
        std::vector<int32_t> whole = all[i].prompt;
        whole.insert(whole.end(), want[i].ids.begin(), want[i].ids.end());
        drafter.learn(std::move(whole));
      }
      EngineOptions options;
      options.drafter = &drafter;
      options.speculation = {.max_drafts = v.drafts, .adaptive = false};
      Engine engine(kept ? static_cast<ForwardModel&>(keeps) : model, options);
      Collector collector;
      for (uint32_t i = 0; i < all.size(); ++i) ASSERT_TRUE(engine.submit(request_of(collector, all[i], i)).has_value());
      ASSERT_TRUE(collector.wait_for(static_cast<int>(all.size())));
      for (size_t i = 0; i < all.size(); ++i) ASSERT_EQ(collector.reply(std::to_string(i)), want[i]) << "request " << i << ", kept " << kept << ", pages " << v.pages << ", wrong 1 in " << v.wrong_one_in;
      expect_no_leak(engine);
      if (v.wrong_one_in == 4) EXPECT_GT(engine.stats().speculation.accepted, 100);
    }
  }
}

// A thought that a budget closes, then the grammar; 2 opens a thought here and 3 closes it.
TEST(Structured, ABudgetClosesTheThoughtAndTheGrammarFollows) {
  const auto grammar = compiled({.ebnf = "root ::= Token(2) [a-z ]* Token(3) [A-C]{2,6} \"!\"", .root = "root", .left_out = {}});
  for (const bool kept : {false, true}) {
    for (uint32_t i = 0; i < 12; ++i) {
      const int32_t budget = static_cast<int32_t>(i % 4) * 3 + 1;
      const auto reply_with = [&](DraftModel* drafter, PageHashModel& model) {
        KeepsLogits keeps(model);
        EngineOptions options;
        options.drafter = drafter;
        options.speculation = {.max_drafts = drafter ? 5 : 0, .adaptive = false};
        Engine engine(kept ? static_cast<ForwardModel&>(keeps) : model, options);
        Collector collector;
        auto request = request_of(collector, {grammar, prompt_of(i + 1, 12), i % 2 ? 1.5f : 0.0f, 20}, i);
        request->thinking = {.max_tokens = budget, .open_id = 2, .close_id = 3, .starts_open = false};
        request->sampling.logit_bias = {{3, -20.0f}};  // the model alone does not close
        EXPECT_TRUE(engine.submit(std::move(request)).has_value());
        EXPECT_TRUE(collector.wait_for(1));
        return collector.reply(std::to_string(i));
      };
      PageHashModel model(256, 256, 48, 400);
      const Reply plain = reply_with(nullptr, model);
      const auto close = std::find(plain.ids.begin(), plain.ids.end(), 3);
      ASSERT_EQ(close - plain.ids.begin(), budget) << "prompt " << i;  // the opening marker counts, the closing one does not
      expect_kept_to({grammar, {}, 0, 1}, plain);
      EXPECT_EQ(plain.finish, FinishReason::stop_token);
      KnowingDrafter drafter(model, 3);
      std::vector<int32_t> whole = prompt_of(i + 1, 12);
      whole.insert(whole.end(), plain.ids.begin(), plain.ids.end());
      drafter.learn(std::move(whole));
      ASSERT_EQ(reply_with(&drafter, model), plain) << "prompt " << i << ", kept " << kept;
    }
  }
}

TEST(Structured, ChoicesFollowTheirOwnWays) {
  const std::vector<Case> all = cases();
  PageHashModel model(512, 512, 48);
  Engine engine(model, {});
  Collector collector;
  auto request = request_of(collector, all[2], 2);
  request->num_choices = 8;
  request->sampling.temperature = 1.0f;
  ASSERT_TRUE(engine.submit(std::move(request)).has_value());
  ASSERT_TRUE(collector.wait_for(8));
  for (int32_t choice = 0; choice < 8; ++choice) expect_kept_to(all[2], collector.reply("2", choice));
  EXPECT_NE(collector.reply("2", 0), collector.reply("2", 1));
}

TEST(Structured, TheEndOfTheGrammarBeatsMinTokensAndIgnoreEos) {
  const ReplyGrammars grammars(letters(), kStops, 0);
  for (const bool kept : {false, true}) {
    PageHashModel model(64, 64, 48);
    KeepsLogits keeps(model);
    Engine engine(kept ? static_cast<ForwardModel&>(keeps) : model, {});
    Collector collector;
    auto request = request_of(collector, {compiled(grammars.regex("ab(c{5})?", ThoughtFirst::none)), {7, 8}, 0.0f, 1}, 0);
    request->min_tokens = 6;  // "ab" could end too early, "abccccc" cannot go on
    request->ignore_eos = true;
    ASSERT_TRUE(engine.submit(std::move(request)).has_value());
    ASSERT_TRUE(collector.wait_for(1));
    EXPECT_EQ(letters().decode(collector.reply("0").ids, true), "abccccc");
    EXPECT_EQ(collector.reply("0").finish, FinishReason::stop_token);
    EXPECT_EQ(engine.stats().structured, 1);
  }
}
}  // namespace
}  // namespace nibble
