#include "model/media_embedder.h"

namespace nibble {
namespace {
// The first n rows of scratch, as a matrix of `cols` columns.
Tensor view(const Tensor& scratch, int64_t rows, int64_t cols) { return {scratch.data, scratch.dtype, {rows, cols}}; }
}  // namespace

MediaEmbedder::MediaEmbedder(const ModelConfig& config, const ModelWeights& weights, DType activations, int32_t max_rows, Backend& backend)
    : config_(config), weights_(weights), backend_(backend) {
  if (!backend.takes_media()) return;
  const auto prepare = [&](const char* name) { return backend.prepare_linear(Bf16Weight{weight(name)}, ActivationQuant::none); };
  int64_t widest = 0;
  if (config.vision && weights.media.contains("vision_embedder.patch_dense.weight")) {
    dense_ = prepare("vision_embedder.patch_dense.weight");
    vision_ = prepare("embed_vision.embedding_projection.weight");
    widest = dense_->shape.in_features;
    hidden_ = backend.allocate(DType::f32, {max_rows, config.vision->mm_embed_dim}, "scratch of the image embedder");
    normed_ = backend.allocate(activations, {max_rows, config.vision->mm_embed_dim}, "scratch of the image embedder");
  }
  if (config.audio && weights.media.contains("embed_audio.embedding_projection.weight")) {
    audio_ = prepare("embed_audio.embedding_projection.weight");
    widest = std::max(widest, int64_t{config.audio->audio_embed_dim});
  }
  if (widest > 0) input_ = backend.allocate(activations, {max_rows, widest}, "scratch of the media embedders");
}

void MediaEmbedder::embed(std::span<const SoftRows> media, const Tensor& x) {
  for (const SoftRows& rows : media) {
    const Tensor out = x.slice_rows(rows.first_row, rows.num_rows);
    if (rows.tokens->is_picture()) {
      embed_picture(rows, out);
      continue;
    }
    NB_ASSERT(audio_, "this model takes no audio");
    const int64_t samples = config_.audio->audio_embed_dim;
    const Tensor frames = view(input_, rows.num_rows, samples);
    backend_.frame_norm({.samples = std::span(rows.tokens->frames).subspan(static_cast<size_t>(rows.first_token * samples), static_cast<size_t>(rows.num_rows * samples)),
                         .out = frames, .eps = config_.audio->rms_norm_eps});
    backend_.linear_into(*audio_, frames, out);
  }
}

void MediaEmbedder::embed_picture(const SoftRows& rows, const Tensor& out) {
  NB_ASSERT(dense_, "this model takes no images");
  const VisionConfig& vision = *config_.vision;
  const int64_t pixels = int64_t{vision.model_patch_size} * vision.model_patch_size * 3, width = vision.mm_embed_dim, n = rows.num_rows;
  const Tensor patches = view(input_, n, pixels), hidden = view(hidden_, n, width), normed = view(normed_, n, width);
  backend_.patch_norm({.pixels = std::span(rows.tokens->patches).subspan(static_cast<size_t>(rows.first_token * pixels), static_cast<size_t>(n * pixels)),
                       .weight = weight("vision_embedder.patch_ln1.weight"), .bias = weight("vision_embedder.patch_ln1.bias"), .out = patches});
  backend_.linear(*dense_, patches, hidden);
  backend_.patch_position({.x = hidden, .dense_bias = weight("vision_embedder.patch_dense.bias"), .ln_weight = weight("vision_embedder.patch_ln2.weight"),
                           .ln_bias = weight("vision_embedder.patch_ln2.bias"), .positions = weight("vision_embedder.pos_embedding"), .columns = rows.tokens->columns,
                           .first_patch = rows.first_token, .norm_weight = weight("vision_embedder.pos_norm.weight"), .norm_bias = weight("vision_embedder.pos_norm.bias"),
                           .out = normed, .eps = vision.rms_norm_eps});
  backend_.linear_into(*vision_, normed, out);
}
}  // namespace nibble
