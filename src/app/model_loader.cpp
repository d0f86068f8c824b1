#include "app/model_loader.h"

#include <algorithm>

#include "base/clock.h"
#include "base/file_io.h"
#include "base/log.h"
#include "formats/model_folder.h"
#include "model/memory_plan.h"

namespace nibble {
namespace {
void check_one_of(const char* flag, const std::string& value, std::initializer_list<const char*> allowed, const char* hint) {
  for (const char* a : allowed) {
    if (value == a) return;
  }
  std::string list;
  for (const char* a : allowed) list += (list.empty() ? "" : ", ") + std::string(a);
  raise(ErrorCode::invalid_argument, "{} {}: wanted one of {}{}", flag, value, list, hint);
}

DType choose_kv_dtype(const ModelFlags& flags, const QuantConfig& quant) {
  const std::string& name = flags.kv_cache_dtype;
  if (name == "float32") return DType::f32;
  if (name == "bf16" || name == "bfloat16") return DType::bf16;
  if (name == "fp8_e4m3") return DType::e4m3;
  if (flags.dtype == "float32") return DType::f32;
  return quant.kv_cache_fp8 ? DType::e4m3 : DType::bf16;
}

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

void load_assistant(const ModelFlags& flags, LoadedModel& loaded) {
  const SpeculativeFlags& s = flags.speculative;
  const std::filesystem::path folder = find_model_folder({s.draft_model_path, {}, flags.download_dir});
  const std::string text = read_config_json(folder), source = (folder / "config.json").string();
  if (lower(s.algorithm) == "eagle3") {
    raise(ErrorCode::unsupported, "--speculative-algorithm {}: {} is not an EAGLE3 draft{}", s.algorithm, folder.string(),
          is_assistant_config(text, source) ? "; it is an MTP assistant, use NEXTN" : " that this program runs; use NEXTN with the model's MTP assistant");
  }
  if (s.num_draft_tokens != 0 && s.num_draft_tokens != s.num_steps + 1) {
    log_warning("--speculative-num-draft-tokens {}: set to --speculative-num-steps + 1 = {}", s.num_draft_tokens, s.num_steps + 1);
  }
  loaded.assistant_config = parse_assistant_config(text, source);
  check_assistant(loaded.assistant_config, loaded.config, source);
  loaded.assistant_weights = flags.load_format == "dummy" ? AssistantWeights::dummy(loaded.assistant_config, flags.random_seed + 1) : AssistantWeights::load(folder, loaded.assistant_config);
  loaded.speculation = {.max_drafts = static_cast<int32_t>(s.num_steps), .adaptive = s.adaptive != "off"};
  loaded.assistant = std::make_unique<Assistant>(loaded.assistant_config, loaded.assistant_weights, *loaded.model, *loaded.backend, loaded.speculation.max_drafts);
  log_info("speculation: {} is frozen-KV MTP; {} of {:.2f} M parameters, {} {} drafts a round", s.algorithm, folder.string(),
           static_cast<double>(loaded.assistant_weights.decoder.parameter_count()) / 1e6, loaded.speculation.adaptive ? "0 to" : "always", loaded.speculation.max_drafts);
}

std::string_view kv_name(DType dtype) { return dtype == DType::f32 ? "float32" : dtype == DType::bf16 ? "bfloat16" : "fp8_e4m3"; }
}  // namespace

bool may_use_cuda(const ModelFlags& flags) { return flags.device != "cpu" && flags.dtype != "float32" && flags.kv_cache_dtype != "float32"; }

std::unique_ptr<Backend> choose_backend(const ModelFlags& flags, bool record) {
  if (flags.device == "cuda" && !may_use_cuda(flags)) {
    raise(ErrorCode::invalid_argument, "--device cuda computes in bfloat16 with a bfloat16 or fp8_e4m3 KV cache; use --device cpu for float32");
  }
  if (may_use_cuda(flags)) {
    try {
      return make_cuda_backend({.max_rows = flags.max_rows, .record = record});
    } catch (const Error& error) {
      if (flags.device == "cuda") throw;
      log_info("{}", error.message);
    }
  }
  return make_cpu_backend({.num_threads = flags.threads});
}

void check_speculative_flags(SpeculativeFlags& s) {
  if (s.algorithm.empty()) {
    if (!s.draft_model_path.empty()) raise(ErrorCode::invalid_argument, "--speculative-draft-model-path {}: wants --speculative-algorithm NEXTN beside it", s.draft_model_path);
    return;
  }
  const std::string name = lower(s.algorithm);
  if (name != "nextn" && name != "eagle" && name != "frozen_kv_mtp" && name != "eagle3") {
    raise(ErrorCode::unsupported, "--speculative-algorithm {}: wanted NEXTN, EAGLE or FROZEN_KV_MTP (all three mean the model's MTP assistant)", s.algorithm);
  }
  if (s.draft_model_path.empty()) raise(ErrorCode::invalid_argument, "--speculative-algorithm {}: wants --speculative-draft-model-path, the folder of the assistant", s.algorithm);
  if (!s.draft_quantization.empty() && s.draft_quantization != "unquant") {
    raise(ErrorCode::unsupported, "--speculative-draft-model-quantization {}: the assistant runs as it is stored; use unquant or leave it out", s.draft_quantization);
  }
  if (s.eagle_topk > 1) raise(ErrorCode::unsupported, "--speculative-eagle-topk {}: trees of drafts are not supported; use 1", s.eagle_topk);
  if (s.num_steps == 0) s.num_steps = s.num_draft_tokens > 1 ? s.num_draft_tokens - 1 : 5;
  if (s.num_steps < 1 || s.num_steps > kMaxDrafts) raise(ErrorCode::invalid_argument, "--speculative-num-steps {}: wanted 1 to {}", s.num_steps, kMaxDrafts);
  if (s.adaptive != "on" && s.adaptive != "off") raise(ErrorCode::invalid_argument, "--speculative-adaptive {}: wanted on or off", s.adaptive);
}

EngineOptions LoadedModel::engine_options(EngineOptions options) const {
  options.suppress_tokens = generation.suppress_tokens;
  options.drafter = assistant.get();
  options.speculation = speculation;
  return options;
}

void check_model_flags(const ModelFlags& flags) {
  check_one_of("--device", flags.device, {"auto", "cpu", "cuda"}, "");
  check_one_of("--dtype", flags.dtype, {"auto", "bfloat16", "float32"}, "; float16 overflows with this model's activations");
  check_one_of("--load-format", flags.load_format, {"auto", "safetensors", "dummy"}, "");
  check_one_of("--kv-cache-dtype", flags.kv_cache_dtype, {"auto", "float32", "bfloat16", "bf16", "fp8_e4m3"}, "");
  check_one_of("--activation-quant", flags.activation_quant, {"auto", "none", "nvfp4"}, "");
  if (!flags.quantization.empty()) check_one_of("--quantization", flags.quantization, {"modelopt_fp4", "modelopt_fp8", "modelopt", "unquant"}, "");
  if (flags.threads < 0) raise(ErrorCode::invalid_argument, "--threads {}: wanted 0 (one per core) or more", flags.threads);
}

std::unique_ptr<LoadedModel> load_configs(const ModelFlags& flags) {
  check_model_flags(flags);
  auto loaded = std::make_unique<LoadedModel>();
  loaded->folder = find_model_folder({flags.model_path, flags.revision, flags.download_dir});
  loaded->tokenizer_folder = flags.tokenizer_path.empty() ? loaded->folder : std::filesystem::path(flags.tokenizer_path);
  const std::string config_text = read_config_json(loaded->folder, flags.override_args);
  loaded->config = parse_model_config(config_text, (loaded->folder / "config.json").string());
  const auto hf_quant = loaded->folder / "hf_quant_config.json";
  loaded->quant = parse_quant_config(config_text, std::filesystem::exists(hf_quant) ? read_file(hf_quant) : std::string(), loaded->folder.string());
  check_quantization_flag(flags.quantization, loaded->quant);
  loaded->generation = read_generation_config(loaded->folder, loaded->config);
  loaded->context_length = flags.context_length > 0 ? flags.context_length : loaded->config.max_position_embeddings;
  if (loaded->context_length > loaded->config.max_position_embeddings) {
    raise(ErrorCode::invalid_argument, "--context-length {}: the model has {}; raise max_position_embeddings with --json-model-override-args too if you mean it", flags.context_length,
          loaded->config.max_position_embeddings);
  }
  return loaded;
}

std::unique_ptr<LoadedModel> load_model(const ModelFlags& flags) {
  const double began = monotonic_seconds();
  auto loaded = load_configs(flags);
  loaded->weights = flags.load_format == "dummy" ? ModelWeights::dummy(loaded->config, loaded->quant, flags.random_seed)
                                                 : ModelWeights::load(loaded->folder, loaded->config, loaded->quant);
  for (const std::string& warning : loaded->weights.warnings) log_warning("{}", warning);
  // A picture is computed in one step, the largest has 1120 rows; others decode beside it.
  const int32_t max_rows = loaded->config.vision ? std::max(flags.max_rows, 1120 + 64) : flags.max_rows;
  ModelFlags device_flags = flags;
  device_flags.max_rows = max_rows;
  loaded->backend = choose_backend(device_flags);
  loaded->kv_cache = choose_kv_dtype(flags, loaded->quant);

  ModelOptions options;
  options.activations = flags.dtype == "float32" ? DType::f32 : DType::bf16;
  options.kv_cache = loaded->kv_cache;
  options.activation_quant = flags.activation_quant == "nvfp4" ? ActivationQuant::nvfp4 : ActivationQuant::none;
  options.max_rows = max_rows;
  const Backend::Memory memory = loaded->backend->memory();
  const MemoryPlan plan = plan_memory({.device_bytes = memory.total_bytes, .free_bytes = memory.free_bytes, .weight_bytes = device_weight_bytes(loaded->weights),
                                       .working_bytes = device_working_bytes(loaded->config, loaded->weights, max_rows), .page_tokens = kPageTokens, .sliding_window = loaded->config.sliding_window,
                                       .full_page_bytes = page_bytes(loaded->config, LayerKind::full, options.kv_cache),
                                       .sliding_page_bytes = page_bytes(loaded->config, LayerKind::sliding, options.kv_cache), .max_running = flags.max_running, .max_rows = max_rows,
                                       .context_length = loaded->context_length, .fraction = flags.mem_fraction, .max_total_tokens = flags.max_total_tokens});
  log_info("memory: {}", plan.text);
  if (flags.mem_fraction > 0 && memory.total_bytes == 0) log_info("--mem-fraction-static has no effect on a CPU; --max-total-tokens sets the size of the KV cache");
  options.num_full_pages = plan.num_full_pages;
  options.num_sliding_pages = plan.num_sliding_pages;
  loaded->model = std::make_unique<Gemma4Model>(loaded->config, loaded->weights, options, *loaded->backend);
  if (!flags.speculative.algorithm.empty()) load_assistant(flags, *loaded);
  loaded->load_seconds = monotonic_seconds() - began;
  log_info("{}: {} of {:.2f} B parameters on {}; linear: {}; activations {}; KV cache {}, scale 1, {} tokens{}; loaded in {:.2f} s", loaded->folder.string(), name_of(loaded->quant.algo),
           static_cast<double>(loaded->weights.parameter_count()) / 1e9, loaded->backend->description(), loaded->model->kernels(),
           options.activations == DType::f32 ? "float32" : "bfloat16", kv_name(options.kv_cache), int64_t{plan.num_full_pages} * kPageTokens,
           loaded->weights.num_kv_scales > 0 ? fmt::format(" ({} k_scale/v_scale of projections ignored)", loaded->weights.num_kv_scales) : "", loaded->load_seconds);
  return loaded;
}
}  // namespace nibble
