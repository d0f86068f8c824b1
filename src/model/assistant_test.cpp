// The assistant alone against goldens/mtp: draft logits from given hidden states, keys and values.
#include "model/assistant.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file_io.h"
#include "base/number_formats.h"
#include "base/test_paths.h"
#include "formats/safetensors.h"

namespace nibble {
namespace {
using nlohmann::json;
constexpr int32_t kPages = 32;

struct Pair {
  ModelConfig config = parse_model_config(read_config_json(test_data("mtp/target")), "target");
  AssistantConfig assistant_config = parse_assistant_config(read_config_json(test_data("mtp/assistant")), "assistant");
  ModelWeights weights = ModelWeights::load(test_data("mtp/target"), config, {});
  AssistantWeights assistant_weights = AssistantWeights::load(test_data("mtp/assistant"), assistant_config);
  std::unique_ptr<Backend> backend = make_cpu_backend({.num_threads = 1});
  Gemma4Model target;
  Assistant assistant;

  explicit Pair(DType kv, DType activations = DType::f32)
      : target(config, weights, {.activations = activations, .kv_cache = kv, .num_full_pages = kPages, .num_sliding_pages = kPages, .max_rows = 128}, *backend),
        assistant(assistant_config, assistant_weights, target, *backend, 7) {}

  // values [heads, positions, d] into pages that lie backwards.
  void fill(const Tensor& pages, const Tensor& values, bool is_k) const {
    const int64_t heads = values.shape[0], positions = values.shape[1], d = values.shape[2];
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t s = 0; s < positions; ++s) {
        for (int64_t i = 0; i < d; ++i) {
          float x;
          std::memcpy(&x, values.as<std::byte>() + ((h * positions + s) * d + i) * 4, 4);
          const int64_t page = kPages - 1 - s / kPageTokens, slot = s % kPageTokens;
          const int64_t at = is_k ? ((page * heads + h) * d + i) * kPageTokens + slot : ((page * heads + h) * kPageTokens + slot) * d + i;
          if (pages.dtype == DType::e4m3) pages.as<e4m3>()[at] = to_e4m3(x);
          else pages.as<float>()[at] = x;
        }
      }
    }
  }
};

std::vector<float> floats(const TensorFiles& files, const std::string& name) {
  const Tensor& t = files.find(name)->tensor;
  std::vector<float> out(static_cast<size_t>(t.count()));
  std::memcpy(out.data(), t.data, out.size() * 4);
  return out;
}

// The difference of the worst of all steps; 4 of 10 contexts pass the window of 32.
float worst_difference(Pair& pair, const json& c, const TensorFiles& files, const std::string& logits_name, int32_t query_shift = 0) {
  const std::string name = c["name"];
  const DraftSource source = pair.target.draft_source();
  pair.fill(source.sliding.k, files.find(name + ".k_sliding")->tensor, true);
  pair.fill(source.sliding.v, files.find(name + ".v_sliding")->tensor, false);
  pair.fill(source.full.k, files.find(name + ".k_full")->tensor, true);
  pair.fill(source.full.v, files.find(name + ".v_full")->tensor, false);
  std::vector<int32_t> table(kPages);
  for (int32_t i = 0; i < kPages; ++i) table[static_cast<size_t>(i)] = kPages - 1 - i;
  std::vector<float> hidden = floats(files, name + ".hidden_in"), logits(512);
  const std::vector<float> want = floats(files, name + "." + logits_name), want_hidden = floats(files, name + ".draft_hidden_out");
  const auto chain = c["draft"].get<std::vector<int32_t>>();
  float worst = 0;
  int32_t token = c["bonus"];
  for (size_t j = 0; j < chain.size(); ++j) {
    const DraftRow row{.token = token, .logit_row = 0, .num_computed = c["kv_len"].get<int32_t>() + query_shift, .full_pages = table, .sliding_pages = table};
    std::vector<float> next(hidden.size());
    pair.assistant.step({&row, 1}, hidden, logits.data(), next.data());
    for (size_t i = 0; i < 512; ++i) worst = std::max(worst, std::fabs(logits[i] - want[j * 512 + i]));
    if (logits_name == "draft_logits") {
      for (size_t i = 0; i < next.size(); ++i) worst = std::max(worst, std::fabs(next[i] - want_hidden[j * next.size() + i]));
    }
    hidden = next;
    token = chain[j];
  }
  return worst;
}

TEST(AssistantGoldens, DraftLogitsAreTheReferencesAtEveryLengthAroundTheWindow) {
  const json goldens = json::parse(read_file(test_data("mtp/goldens.json")));
  const TensorFiles files = TensorFiles::open(test_data("mtp/draft_cases.safetensors"));
  Pair plain(DType::f32), rounded(DType::e4m3);
  for (const json& c : goldens["draft_cases"]) {
    EXPECT_LT(worst_difference(plain, c, files, "draft_logits"), 1e-3f) << c["name"];
    EXPECT_LT(worst_difference(rounded, c, files, "draft_logits_fp8_kv"), 1e-3f) << c["name"];
    // One position further the logits are others: the test would see it.
    if (c["kv_len"] > 1) EXPECT_GT(worst_difference(plain, c, files, "draft_logits_position_kv_len"), 0.05f) << c["name"];
  }
}

TEST(AssistantGoldens, DraftsInBf16FromTheModelsOwnStateAreTheReferencesChain) {
  const json goldens = json::parse(read_file(test_data("mtp/goldens.json")));
  Pair pair(DType::bf16, DType::bf16);
  for (const json& c : goldens["draft_cases"]) {
    const auto context = c["context"].get<std::vector<int32_t>>();
    std::vector<int32_t> table(kPages), ids(5);
    for (int32_t i = 0; i < kPages; ++i) table[static_cast<size_t>(i)] = (i * 5 + 1) % kPages;
    const SequenceSlice slice{0, static_cast<int32_t>(context.size()), 0, table, table};
    const std::vector<int32_t> rows{static_cast<int32_t>(context.size()) - 1};
    std::vector<float> logits(512);
    pair.target.forward({context, {&slice, 1}, rows}, logits.data());
    const DraftRow row{.token = c["bonus"], .logit_row = 0, .num_computed = static_cast<int32_t>(context.size()), .full_pages = table, .sliding_pages = table};
    pair.assistant.draft({&row, 1}, 5, ids.data());
    if (c["min_margin"].get<float>() > 0.25f) EXPECT_EQ(ids, c["draft"].get<std::vector<int32_t>>()) << c["name"];
  }
}

TEST(AssistantCheckpoint, OneThatBelongsToAnotherModelIsRefusedNamingBothValues) {
  const std::string text = read_config_json(test_data("mtp/assistant"));
  const ModelConfig target = parse_model_config(read_config_json(test_data("mtp/target")), "target");
  const auto complaint = [&](const std::function<void(json&)>& change) {
    json changed = json::parse(text);
    change(changed);
    try {
      check_assistant(parse_assistant_config(changed.dump(), "a/config.json"), target, "a/config.json");
    } catch (const Error& error) {
      return error.message;
    }
    return std::string("accepted");
  };
  EXPECT_EQ(complaint([](json&) {}), "accepted");
  EXPECT_NE(complaint([](json& c) { c["backbone_hidden_size"] = 3840; }).find("backbone_hidden_size is 3840, the target has 64"), std::string::npos);
  EXPECT_NE(complaint([](json& c) { c["text_config"]["vocab_size"] = 600; }).find("vocab_size is 600, the target has 512"), std::string::npos);
  EXPECT_NE(complaint([](json& c) { c["text_config"]["head_dim"] = 32; }).find("head_dim is 32, the target has 16"), std::string::npos);
  EXPECT_NE(complaint([](json& c) { c["text_config"]["sliding_window"] = 64; }).find("sliding_window is 64, the target has 32"), std::string::npos);
  EXPECT_NE(complaint([](json& c) { c["text_config"]["num_key_value_heads"] = 1; }).find("num_key_value_heads is 1, the target has 2"), std::string::npos);
  EXPECT_NE(complaint([](json& c) { c["use_ordered_embeddings"] = true; }).find("use_ordered_embeddings"), std::string::npos);
  EXPECT_NE(complaint([](json& c) { c["architectures"] = {"LlamaForCausalLM"}; }).find("not an assistant"), std::string::npos);
}
}  // namespace
}  // namespace nibble
