#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "base/file_io.h"
#include "base/rng.h"
#include "base/test_paths.h"

namespace nibble {
namespace {
using nlohmann::json;

TEST(SamplerGoldens, EditsKeptSetAndDistributionAreTheReferences) {
  const json goldens = json::parse(read_file(test_data("serving/sampling.json")));
  ASSERT_FALSE(goldens["cases"].empty());
  for (const json& c : goldens["cases"]) {
    const json& params = c["params"];
    SamplingParams p;
    p.temperature = params.value("temperature", 1.0f);
    p.top_p = params.value("top_p", 1.0f);
    p.top_k = params.value("top_k", -1);
    p.min_p = params.value("min_p", 0.0f);
    p.repetition_penalty = params.value("repetition_penalty", 1.0f);
    p.frequency_penalty = params.value("frequency_penalty", 0.0f);
    p.presence_penalty = params.value("presence_penalty", 0.0f);
    if (params.contains("logit_bias")) {
      for (const auto& [id, bias] : params["logit_bias"].items()) p.logit_bias.emplace_back(std::stoi(id), bias.get<float>());
    }
    std::vector<float> logits;
    for (const json& x : c["logits"]) logits.push_back(x.is_null() ? -INFINITY : x.get<float>());
    OutputCounts counts;
    const auto output = params.value("output_ids", std::vector<int32_t>());
    for (const int32_t id : output) ++counts[id];
    std::vector<int32_t> masked;
    if (static_cast<int>(output.size()) < params.value("min_new_tokens", 0)) masked = params.value("stop_ids", std::vector<int32_t>());
    const auto suppressed = params.value("suppress", std::vector<int32_t>());
    std::vector<uint32_t> allowed;
    if (params.contains("allowed")) {
      allowed.assign(logits.size() / 32 + 1, 0);
      for (const int32_t id : params["allowed"]) allowed[static_cast<size_t>(id / 32)] |= 1u << (id % 32);
    }
    edit_logits(logits, {.params = &p, .output = &counts, .masked = masked, .suppressed = suppressed, .allowed = allowed.empty() ? nullptr : allowed.data()});
    const json& expected = c["expected"];
    for (size_t i = 0; i < logits.size(); ++i) {
      const json& want = expected["logits_after_edits"][i];
      if (want.is_null()) {
        ASSERT_EQ(logits[i], -INFINITY) << c["id"];
      } else {
        ASSERT_NEAR(logits[i], want.get<float>(), 1e-5) << c["id"];
      }
    }
    Sampler sampler;
    std::vector<float> scored = logits;
    const auto kept = sampler.kept(scored, p);
    std::vector<int32_t> ids;
    for (const auto& [id, probability] : kept) {
      ids.push_back(id);
      ASSERT_NEAR(probability, expected["distribution"][static_cast<size_t>(id)].get<double>(), 1e-5) << c["id"];
    }
    std::sort(ids.begin(), ids.end());
    auto want_kept = expected["kept"].get<std::vector<int32_t>>();
    std::sort(want_kept.begin(), want_kept.end());
    ASSERT_EQ(ids, want_kept) << c["id"];

    scored = logits;
    const auto all = sampler.sample(scored, p, 0, 0, static_cast<int32_t>(logits.size()));
    if (want_kept.empty()) {
      ASSERT_FALSE(all.has_value());
      continue;
    }
    for (const TokenLogprob& top : all->top) {
      const json& want = expected["logprobs"][static_cast<size_t>(top.id)];
      if (!want.is_null()) ASSERT_NEAR(top.logprob, want.get<float>(), 1e-4) << c["id"];
    }
  }
}

TEST(Sampler, DrawsFollowTheDistributionAndRepeatWithTheSeed) {
  const std::vector<float> logits{0.0f, 1.0f, 2.0f, -1.0f};
  SamplingParams p;
  p.top_k = 3;
  p.seed = 42;
  Sampler sampler;
  std::vector<int> counts(4);
  constexpr int kDraws = 20000;
  for (int position = 0; position < kDraws; ++position) {
    std::vector<float> x = logits, again = logits;
    const int32_t id = sampler.sample(x, p, 0, position, -1)->id;
    ASSERT_EQ(id, sampler.sample(again, p, 0, position, -1)->id);
    ++counts[static_cast<size_t>(id)];
  }
  const double total = 1 + std::exp(1) + std::exp(2);
  EXPECT_EQ(counts[3], 0);
  for (size_t i = 0; i < 3; ++i) {
    const double want = std::exp(logits[i]) / total;
    EXPECT_NEAR(counts[i] / double{kDraws}, want, 5 * std::sqrt(want * (1 - want) / kDraws));  // five standard deviations
  }
}

TEST(Sampler, NothingPossibleIsReportedNotGuessed) {
  Sampler sampler;
  std::vector<float> none{-INFINITY, -INFINITY}, broken{0.0f, NAN};
  for (const float temperature : {0.0f, 1.0f}) {
    SamplingParams p;
    p.temperature = temperature;
    EXPECT_FALSE(sampler.sample(none, p, 0, 0, -1).has_value());
    EXPECT_FALSE(sampler.sample(broken, p, 0, 0, -1).has_value());
  }
}

// The short way, from candidates and a summary, draws what the long way over all logits draws.
TEST(Candidates, DecideAsTheWholeRowDoes) {
  constexpr int32_t kVocab = 5000;
  std::vector<float> logits(kVocab);
  for (uint32_t i = 0; i < kVocab; ++i) logits[i] = uniform_float(philox4x32({i, 0, 0, 0}, 5)[0]) * 12.0f;
  logits[17] = logits[99] = 12.5f;  // a tie for the best
  const OutputCounts output{{17, 2}, {40, 1}};
  const std::vector<int32_t> suppressed{3, 4999};
  int32_t cases = 0;
  const std::vector<int32_t> masked{0};
  std::vector<uint32_t> mask(static_cast<size_t>(mask_words(kVocab)));
  for (int32_t id = 0; id < kVocab; id += 3) mask[static_cast<size_t>(id / 32)] |= 1u << (id % 32);
  for (const float temperature : {0.0f, 0.7f, 1.5f}) {
    for (const int32_t top_k : {1, 20, 64}) {
      for (const float top_p : {0.5f, 0.95f, 1.0f}) {
        for (const float penalty : {0.0f, 0.6f}) {
          SamplingParams params;
          params.temperature = temperature, params.top_k = top_k, params.top_p = top_p, params.frequency_penalty = penalty, params.seed = 9;
          params.repetition_penalty = penalty > 0 ? 1.2f : 1.0f;
          params.logit_bias = {{99, -0.25f}, {7, 3.0f}};
          for (int32_t position = 0; position < 10; ++position, ++cases) {
            const bool grammar = position % 2 == 1;
            const LogitEdits edits{.params = &params, .output = &output, .masked = {}, .suppressed = suppressed, .allowed = grammar ? mask.data() : nullptr};
            std::vector<float> long_way(logits), short_way(logits);
            edit_logits(long_way, edits);
            Sampler sampler;
            const auto want = sampler.sample(long_way, params, 0, position, 5);
            const int32_t wanted = candidates_wanted(params, 5);
            ASSERT_GE(wanted, 5);
            std::vector<LogitEdit> list;
            append_edits(edits, 0, kVocab, list);
            const float divisor = temperature == 0.0f ? 1.0f : temperature;
            std::vector<Candidate> ranked(kMaxCandidates);
            RowSummary summary;
            cpu::find_candidates({short_way.data(), DType::f32, {1, kVocab}}, list, grammar ? AllowedIds{masked, mask} : AllowedIds{}, {&divisor, 1}, wanted, ranked.data(), &summary);
            const auto got = sampler.sample(std::span<const Candidate>(ranked).first(static_cast<size_t>(wanted)), summary, params, 0, position, 5);
            ASSERT_TRUE(want && got);
            EXPECT_EQ(got->id, want->id);
            EXPECT_NEAR(got->logprob, want->logprob, 1e-5);
            ASSERT_EQ(got->top.size(), want->top.size());
            for (size_t i = 0; i < got->top.size(); ++i) EXPECT_EQ(got->top[i].id, want->top[i].id);
          }
        }
      }
    }
  }
  EXPECT_EQ(cases, 540);
}
}  // namespace
}  // namespace nibble
