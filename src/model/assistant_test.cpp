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
#include "model/test_devices.h"

namespace nibble {
namespace {
using nlohmann::json;
constexpr int32_t kPages = 70;

struct Pair {
  ModelConfig config = parse_model_config(read_config_json(test_data("mtp/target")), "target");
  AssistantConfig assistant_config = parse_assistant_config(read_config_json(test_data("mtp/assistant")), "assistant");
  ModelWeights weights = ModelWeights::load(test_data("mtp/target"), config, {});
  AssistantWeights assistant_weights = AssistantWeights::load(test_data("mtp/assistant"), assistant_config);
  std::unique_ptr<Backend> backend;
  Gemma4Model target;
  Assistant assistant;

  explicit Pair(DType kv, DType activations = DType::f32, const std::string& device = "cpu", bool record = true)
      : backend(backend_on(device, record)),
        target(config, weights, {.activations = activations, .kv_cache = kv, .num_full_pages = kPages, .num_sliding_pages = kPages, .max_rows = 512}, *backend),
        assistant(assistant_config, assistant_weights, target, *backend, 7) {}

  // values [heads, positions, d] into pages that lie backwards.
  void fill(const Tensor& pages, const Tensor& values, bool is_k) const {
    const int64_t heads = values.shape[0], positions = values.shape[1], d = values.shape[2];
    std::vector<std::byte> bytes(static_cast<size_t>(pages.bytes()));
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t s = 0; s < positions; ++s) {
        for (int64_t i = 0; i < d; ++i) {
          float x;
          std::memcpy(&x, values.as<std::byte>() + ((h * positions + s) * d + i) * 4, 4);
          const int64_t page = kPages - 1 - s / kPageTokens, slot = s % kPageTokens;
          const int64_t at = is_k && backend->on_host() ? ((page * heads + h) * d + i) * kPageTokens + slot : ((page * heads + h) * kPageTokens + slot) * d + i;
          if (pages.dtype == DType::e4m3) reinterpret_cast<e4m3*>(bytes.data())[at] = to_e4m3(x);
          else reinterpret_cast<float*>(bytes.data())[at] = x;
        }
      }
    }
    backend->upload(bytes.data(), pages);
  }
};

std::vector<float> floats(const TensorFiles& files, const std::string& name) {
  const Tensor& t = files.find(name)->tensor;
  std::vector<float> out(static_cast<size_t>(t.count()));
  std::memcpy(out.data(), t.data, out.size() * 4);
  return out;
}

struct Difference {
  float worst = 0;     // of logits, and of hidden states where the golden's are for these logits
  double squares = 0;  // of logits
};

// Over all steps of a case; 4 of 10 contexts pass the window of 32.
Difference difference(Pair& pair, const json& c, const TensorFiles& files, const std::string& logits_name) {
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
  Difference out;
  int32_t token = c["bonus"];
  for (size_t j = 0; j < chain.size(); ++j) {
    const DraftRow row{.token = token, .logit_row = 0, .num_computed = c["kv_len"].get<int32_t>(), .full_pages = table, .sliding_pages = table};
    std::vector<float> next(hidden.size());
    pair.assistant.step({&row, 1}, hidden, logits.data(), next.data());
    for (size_t i = 0; i < 512; ++i) {
      const float d = logits[i] - want[j * 512 + i];
      out.worst = std::max(out.worst, std::fabs(d));
      out.squares += double{d} * d;
    }
    if (logits_name == "draft_logits") {
      for (size_t i = 0; i < next.size(); ++i) out.worst = std::max(out.worst, std::fabs(next[i] - want_hidden[j * next.size() + i]));
    }
    hidden = next;
    token = chain[j];
  }
  return out;
}

TEST(AssistantGoldens, DraftLogitsAreTheReferencesAtEveryLengthAroundTheWindow) {
  const json goldens = json::parse(read_file(test_data("mtp/goldens.json")));
  const TensorFiles files = TensorFiles::open(test_data("mtp/draft_cases.safetensors"));
  Pair plain(DType::f32), rounded(DType::e4m3);
  for (const json& c : goldens["draft_cases"]) {
    EXPECT_LT(difference(plain, c, files, "draft_logits").worst, 1e-3f) << c["name"];
    EXPECT_LT(difference(rounded, c, files, "draft_logits_fp8_kv").worst, 1e-3f) << c["name"];
    // One position further the logits are others: the test would see it.
    if (c["kv_len"] > 1) EXPECT_GT(difference(plain, c, files, "draft_logits_position_kv_len").worst, 0.05f) << c["name"];
  }
}

// From given states, with bf16 inputs of the linear layers: the GPU stays as close to the reference as the CPU.
TEST(AssistantGoldens, DraftLogitsInBf16AreAsCloseOnTheGpu) {
  if (devices().size() == 1) GTEST_SKIP() << "no GPU that this build runs on";
  const json goldens = json::parse(read_file(test_data("mtp/goldens.json")));
  const TensorFiles files = TensorFiles::open(test_data("mtp/draft_cases.safetensors"));
  Pair on_cpu(DType::e4m3, DType::bf16, "cpu"), on_cuda(DType::e4m3, DType::bf16, "cuda");
  double cpu_squares = 0, cuda_squares = 0;
  for (const json& c : goldens["draft_cases"]) {
    cpu_squares += difference(on_cpu, c, files, "draft_logits_fp8_kv").squares;
    cuda_squares += difference(on_cuda, c, files, "draft_logits_fp8_kv").squares;
  }
  EXPECT_LT(cuda_squares, 4 * cpu_squares);  // twice the root mean square
  EXPECT_GT(cuda_squares, 0);
}

class AssistantOnDevices : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(All, AssistantOnDevices, testing::ValuesIn(devices()));

// The chains of all cases: alone, again (a device may then repeat its record of the round), and side by side.
TEST_P(AssistantOnDevices, DraftsInBf16FromTheModelsOwnStateAreTheReferencesChain) {
  const json goldens = json::parse(read_file(test_data("mtp/goldens.json")));
  Pair pair(DType::bf16, DType::bf16, GetParam());
  const auto num_cases = static_cast<int32_t>(goldens["draft_cases"].size());
  NB_ASSERT(num_cases <= 10, "the pages hold ten contexts");
  constexpr int32_t kPagesPerCase = 7;
  std::vector<std::vector<int32_t>> tables;
  std::vector<int32_t> all_ids;
  std::vector<SequenceSlice> slices;
  std::vector<DraftRow> all_rows;
  std::vector<int32_t> last_rows;
  int32_t case_number = 0;
  for (const json& c : goldens["draft_cases"]) {
    const auto context = c["context"].get<std::vector<int32_t>>();
    const auto length = static_cast<int32_t>(context.size());
    std::vector<int32_t>& table = tables.emplace_back(kPagesPerCase);
    for (int32_t i = 0; i < kPagesPerCase; ++i) table[static_cast<size_t>(i)] = case_number * kPagesPerCase + (i * 5 + 1) % kPagesPerCase;
    slices.push_back({static_cast<int32_t>(all_ids.size()), length, 0, {}, {}});
    all_ids.insert(all_ids.end(), context.begin(), context.end());
    last_rows.push_back(static_cast<int32_t>(all_ids.size()) - 1);
    all_rows.push_back({.token = c["bonus"], .logit_row = case_number++, .num_computed = length, .full_pages = {}, .sliding_pages = {}});
  }
  for (size_t i = 0; i < tables.size(); ++i) slices[i].full_pages = slices[i].sliding_pages = all_rows[i].full_pages = all_rows[i].sliding_pages = tables[i];
  std::vector<float> logits(512 * tables.size());
  std::vector<std::vector<int32_t>> alone;
  for (size_t i = 0; i < tables.size(); ++i) {
    const json& c = goldens["draft_cases"][i];
    const auto context = c["context"].get<std::vector<int32_t>>();
    const SequenceSlice slice{0, slices[i].num_rows, 0, tables[i], tables[i]};
    const std::vector<int32_t> rows{slices[i].num_rows - 1};
    DraftRow row = all_rows[i];
    row.logit_row = 0;
    for (int again = 0; again < 3; ++again) {
      std::vector<int32_t> ids(5);
      pair.target.forward({context, {&slice, 1}, rows}, logits.data());
      pair.assistant.draft({&row, 1}, 5, ids.data());
      if (c["min_margin"].get<float>() > 0.25f) EXPECT_EQ(ids, c["draft"].get<std::vector<int32_t>>()) << c["name"] << " round " << again;
      std::vector<int32_t> two(2);
      pair.assistant.draft({&row, 1}, 2, two.data());
      EXPECT_EQ(two, std::vector<int32_t>(ids.begin(), ids.begin() + 2)) << c["name"];
      if (again == 0) alone.push_back(ids);
    }
  }
  for (int again = 0; again < 3; ++again) {
    std::vector<int32_t> ids(5 * tables.size());
    pair.target.forward({all_ids, slices, last_rows}, logits.data());
    pair.assistant.draft(all_rows, 5, ids.data());
    for (size_t i = 0; i < tables.size(); ++i) {
      EXPECT_EQ(std::vector<int32_t>(ids.begin() + static_cast<int64_t>(5 * i), ids.begin() + static_cast<int64_t>(5 * i + 5)), alone[i]) << "case " << i << " among others, round " << again;
    }
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
