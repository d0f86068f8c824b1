// The assistant that drafts for a Gemma 4 model: a small decoder without K and V of its own.
//
//   x  = W_pre (E_target[token] * bf16(sqrt(hidden_target)), h)        h: the target's final-normed state, then the assistant's own
//   per layer:  q = rope(rms(W_q rms(x, input_norm), q_norm))          at the position of the last token in the pages, the same for all drafts of a round
//               x = x + rms(W_o attention(q, K, V), post_attention_norm)   K and V: the target's last layer of the same kind
//               x = (x + rms(MLP(rms(x, pre_feedforward_norm)), post_feedforward_norm)) * layer_scalar
//   f  = rms(x, norm);  draft = argmax(W_head f);  h = W_post f
//
// Rounding is the target's: f32 residual, inputs of linear layers in the target's activation dtype, K and V as its pages hold them.
#pragma once

#include <memory>
#include <vector>

#include "model/model.h"

namespace nibble {
class Assistant final : public DraftModel {
 public:
  // config belongs to the target (check_assistant). Everything given must outlive the assistant. Raises unsupported where the backend cannot draft.
  Assistant(const AssistantConfig& config, const AssistantWeights& weights, const Gemma4Model& target, Backend& backend, int32_t max_drafts);

  int32_t max_drafts() const override { return max_drafts_; }
  void draft(std::span<const DraftRow> rows, int32_t num_drafts, int32_t* ids) override;

  // One step from given states instead of the target's, for tests: hidden [rows.size(), backbone hidden]; logits [rows.size(), vocab], hidden_out as hidden, on the host.
  void step(std::span<const DraftRow> rows, std::span<const float> hidden, float* logits, float* hidden_out);

 private:
  struct Layer {
    const LayerWeights* weights;
    LayerConfig config;
    std::unique_ptr<PreparedLinear> q, o, gate, up, down;
  };
  struct Rotary {
    std::vector<float> frequencies;
    Tensor cos, sin;
  };

  void set_rows(std::span<const DraftRow> rows);
  StepPlan plan(int32_t program) const;
  void fill_rotary(int64_t rows);
  void run(const DraftInputArgs& input, int64_t rows);
  void run_layer(const Layer& layer, int64_t rows, const Tensor& next_norm);
  RotaryTable table(const Rotary& rotary, int64_t rows) const;

  const AssistantConfig& config_;
  const AssistantWeights& weights_;
  Backend& backend_;
  DraftSource source_;
  int32_t max_drafts_, max_rows_, sliding_window_;
  int32_t full_group_ = 1, sliding_group_ = 1;
  std::vector<Layer> layers_;
  std::unique_ptr<PreparedLinear> pre_, post_, head_;
  Rotary sliding_rotary_, full_rotary_;
  Tensor joined_, x_, h_, q_, attended_, sublayer_, gate_, up_, gated_, final_, logits_, state_, chosen_, given_;
  // Of the round: host lists that the ops see.
  std::vector<int32_t> ids_, logit_rows_;
  std::vector<PagedRows> full_rows_, sliding_rows_;
};
}  // namespace nibble
