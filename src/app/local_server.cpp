#include "app/local_server.h"

#include <algorithm>

#include "app/version.h"

namespace nibble {
ApiOptions api_options_of(const LoadedModel& loaded, const Tokenizer& tokenizer) {
  ApiOptions options;
  options.tokenizer_path = loaded.tokenizer_folder.string();
  options.model_type = loaded.config.model_type;
  options.architecture = loaded.config.architecture;
  options.version = kVersion;
  options.context_length = loaded.context_length;
  options.bos_token_id = loaded.config.bos_token_id;
  options.stop_ids = loaded.generation.eos_token_ids;
  if (const auto eos = tokenizer.id_of(read_special_token_names(loaded.tokenizer_folder).eos)) options.stop_ids.push_back(*eos);
  options.load_seconds = loaded.load_seconds;
  for (const WeightGroup& group : weight_groups(loaded.weights)) options.weight_bytes += group.bytes;
  options.full_page_bytes = page_bytes(loaded.config, LayerKind::full, loaded.kv_cache);
  options.sliding_page_bytes = page_bytes(loaded.config, LayerKind::sliding, loaded.kv_cache);
  if (loaded.backend) {
    const Backend::Memory memory = loaded.backend->memory();
    options.device_bytes = memory.total_bytes - memory.free_bytes;
  }
  const ModelConfig& c = loaded.config;
  options.media = {.images = loaded.model && loaded.model->takes_images(), .audio = loaded.model && loaded.model->takes_audio(), .image_id = c.image_token_id, .audio_id = c.audio_token_id,
                   .video_id = c.video_token_id, .boi_id = c.boi_token_id, .eoi_id = c.eoi_token_id, .boa_id = c.boa_token_id, .eoa_id = c.eoa_token_id};
  if (c.vision) {
    options.media.image_budget = c.vision->num_soft_tokens;
    options.media.most_positions = c.vision->mm_posemb_size;
  }
  const GenerationConfig& g = loaded.generation;
  options.chat_defaults = {.temperature = g.temperature.value_or(1.0f), .top_p = g.top_p.value_or(1.0f), .min_p = g.min_p.value_or(0.0f),
                           .repetition_penalty = g.repetition_penalty.value_or(1.0f), .top_k = g.top_k.value_or(-1)};
  return options;
}

LocalServer::LocalServer(const ModelFlags& flags, EngineOptions engine_options) : loaded_(load_model(flags)), tokenizer_(Tokenizer::load(loaded_->tokenizer_folder)) {
  auto chat_template = ChatTemplate::load({loaded_->tokenizer_folder, {}, {}});
  if (chat_template) template_ = std::move(*chat_template);
  engine_options.decode_log_interval = 0;
  engine_ = std::make_unique<Engine>(*loaded_->model, loaded_->engine_options(std::move(engine_options)));
  ApiOptions options = api_options_of(*loaded_, tokenizer_);
  options.served_names = {flags.model_path};
  options.model_path = flags.model_path;
  api_ = std::make_unique<Api>(std::move(options), *engine_, tokenizer_, template_ ? &*template_ : nullptr);
  api_->set_phase(ApiPhase::ready);
}
}  // namespace nibble
