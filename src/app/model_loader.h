// From flags to a model ready to run: what `serve`, `chat` and `inspect` share.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "formats/generation_config.h"
#include "formats/model_config.h"
#include "formats/quant_config.h"
#include "engine/engine.h"
#include "model/assistant.h"
#include "model/model.h"
#include "text/tokenizer.h"

namespace nibble {
// The --speculative-* flags.
struct SpeculativeFlags {
  std::string algorithm;           // empty: none
  std::string draft_model_path, draft_quantization;
  int64_t num_steps = 0;           // drafts per round; 0: not given
  int64_t num_draft_tokens = 0, eagle_topk = 0;
  std::string adaptive = "on";     // on, off
};
// Checks what needs no file, and fills in the numbers. Raises invalid_argument or unsupported with one line.
void check_speculative_flags(SpeculativeFlags& flags);

struct ModelFlags {
  std::string model_path = "demo", revision, download_dir, tokenizer_path;
  std::string device = "auto", dtype = "auto", load_format = "auto", quantization, kv_cache_dtype = "auto", activation_quant = "auto";
  std::string override_args;      // --json-model-override-args
  int threads = 0;                // 0: one per core
  int64_t max_total_tokens = 0;   // 0: automatic
  double mem_fraction = 0;        // of a device's memory for weights and KV cache; 0: automatic
  int32_t max_running = 256;      // sequences that a KV cache on a device should hold at once
  int32_t context_length = 0;     // 0: the config's
  int32_t max_rows = 512;
  uint64_t random_seed = 0;       // of dummy weights
  SpeculativeFlags speculative;
};

// Whether the flags leave a GPU as a choice.
bool may_use_cuda(const ModelFlags& flags);

// The device that --device and the other flags ask for; auto: the GPU where there is one that the build's kernels run on and it can do what they ask, else the CPU.
// record: whether a device repeats small steps as records.
std::unique_ptr<Backend> choose_backend(const ModelFlags& flags, bool record = true);

// Checks the flags that need no file. Raises invalid_argument with one line.
void check_model_flags(const ModelFlags& flags);

struct LoadedModel {
  std::filesystem::path folder, tokenizer_folder;
  ModelConfig config;
  QuantConfig quant;
  GenerationConfig generation;
  ModelWeights weights;
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Gemma4Model> model;
  int32_t context_length = 0;
  DType kv_cache = DType::bf16;
  double load_seconds = 0;

  // With --speculative-algorithm.
  AssistantConfig assistant_config;
  AssistantWeights assistant_weights;
  std::unique_ptr<Assistant> assistant;
  SpeculationOptions speculation;

  // Engine options that follow from the model: the suppressed tokens and the assistant.
  EngineOptions engine_options(EngineOptions options) const;
};

// Everything but the tokenizer. Logs one line that says what runs, with which kernels and which scales.
std::unique_ptr<LoadedModel> load_model(const ModelFlags& flags);

// The configs alone, for commands that touch no weights.
std::unique_ptr<LoadedModel> load_configs(const ModelFlags& flags);
}  // namespace nibble
