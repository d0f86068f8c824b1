// The Gemma 4 unified text model, written once against Backend.
//
//   x  = bf16(E[id] * bf16(sqrt(hidden)))
//   per layer:  h = rms(x, input_norm);  q, k, v = W h  (v = k's projection on full layers with k_eq_v)
//               a = attention(rope(rms(q, q_norm)), rope(rms(k, k_norm)), rms(v)), scores not scaled
//               x = x + rms(W_o a, post_attention_norm)
//               m = rms(x, pre_feedforward_norm);  f = W_down (gelu(W_gate m) * W_up m)
//               x = (x + rms(f, post_feedforward_norm)) * layer_scalar
//   logits = cap * tanh(W_head rms(x, norm) / cap)
//
// The residual stream is f32. Inputs of linear layers are bf16, or f32 with ModelOptions::activations f32; K and V are rounded to the cache's dtype after
// norm and RoPE, with scale 1.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "formats/model_config.h"
#include "kernels/backend.h"
#include "model/media_embedder.h"
#include "model/step.h"
#include "model/weights.h"

namespace nibble {
struct ModelOptions {
  DType activations = DType::bf16;  // bf16, or f32 to compare with a reference
  DType kv_cache = DType::bf16;     // f32, bf16 or e4m3
  ActivationQuant activation_quant = ActivationQuant::none;
  int32_t num_full_pages = 64;      // pages of kPageTokens positions
  int32_t num_sliding_pages = 64;
  int32_t max_rows = 512;           // rows of one step
};

// Of the rotating pairs: the angle of pair p at position n is n times its entry.
std::vector<float> rotary_frequencies(const RopeConfig& rope, int32_t head_dim);

// Bytes of one page over all layers of a kind, K and V.
int64_t page_bytes(const ModelConfig& config, LayerKind kind, DType kv_cache);

// What an assistant reads of its target.
struct DraftSource {
  Tensor hidden;      // [rows, hidden]: final-normed state behind each of the last step's logit rows
  Tensor embed;       // [vocab, hidden] bf16
  float embed_scale = 1.0f;
  struct Pages {
    Tensor k, v;
  };
  Pages full, sliding;  // of the last layer of each kind; empty where there is none
};

class Gemma4Model final : public ForwardModel {
 public:
  // Prepares every linear and allocates pools and scratch; after this a step allocates nothing. The weights must outlive the model.
  Gemma4Model(const ModelConfig& config, const ModelWeights& weights, const ModelOptions& options, Backend& backend);

  int32_t vocab_size() const override { return config_.vocab_size; }
  const KvGeometry& kv_geometry() const override { return geometry_; }
  int32_t max_rows() const override { return options_.max_rows; }
  bool takes_images() const override { return media_->takes_images(); }
  bool takes_audio() const override { return media_->takes_audio(); }
  void forward(const Step& step, float* logits) override;
  bool is_lost() override { return backend_.is_lost(); }
  int32_t kept_logit_rows() const override { return logits_ ? static_cast<int32_t>(logits_.rows()) : 0; }
  void candidates(std::span<const LogitEdit> edits, const AllowedIds& allowed, std::span<const float> temperatures, int32_t count, Candidate* candidates, RowSummary* summaries) override;
  void read_logits(int32_t row, float* logits) override;

  DraftSource draft_source() const;
  const ModelOptions& options() const { return options_; }

  int64_t prepared_bytes() const;             // of repacked weights
  std::string kernels() const;                // "avx512_bf16 nvfp4 x144, avx512_bf16 bf16 x185": what runs, for the log

 private:
  struct Layer {
    const LayerWeights* weights;
    LayerConfig config;
    std::unique_ptr<PreparedLinear> q, k, v, o, gate, up, down;
    Tensor k_pages, v_pages;
  };
  struct Rotary {
    std::vector<float> frequencies;
    Tensor cos, sin;  // [max_rows, rotated pairs] f32
  };

  void prepare_layers();
  void fill_last_visible(const Step& step);
  void allocate_scratch();
  RotaryTable fill_rotary(const Rotary& rotary, std::span<const PagedRows> sequences, int64_t rows);
  void run_layers(const Step& step, int64_t rows, int64_t wanted, const Tensor& logits);
  void run_head(const Tensor& normed, const Tensor& logits);
  void run_layer(Layer& layer, const RotaryTable& rotary, std::span<const PagedRows> sequences, int64_t rows, const Tensor* next_norm);

  const ModelConfig& config_;
  const ModelWeights& weights_;
  ModelOptions options_;
  Backend& backend_;
  KvGeometry geometry_;
  std::vector<Layer> layers_;
  std::unique_ptr<PreparedLinear> head_;
  Rotary sliding_rotary_, full_rotary_;
  // Scratch, [max_rows, ...]: the residual stream x, the input h of a linear, and what the sub-layers make.
  Tensor x_, h_, q_, k_, v_, attended_, sublayer_, gate_, up_, gated_, last_, last_normed_;
  Tensor logits_;  // [256, vocab] f32 where the backend's memory is not the host's
  std::vector<PagedRows> full_rows_, sliding_rows_;
  std::unique_ptr<MediaEmbedder> media_;
  std::vector<int32_t> last_visible_;  // [rows] of a step with pictures, else empty
};
}  // namespace nibble
