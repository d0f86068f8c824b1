// Pictures and sound into the residual stream:
//
//   image  soft = W_project rms(LN(LN(W_dense LN(patch) + b) + (pos[column, 0] + pos[row, 1])))
//   audio  soft = W_project rms(frame)
//
// Soft tokens enter as they are: they are not scaled as embeddings of words are.
#pragma once

#include "kernels/backend.h"
#include "formats/model_config.h"
#include "model/soft_tokens.h"
#include "model/weights.h"

namespace nibble {
class MediaEmbedder {
 public:
  // Both must outlive the embedder. Without vision or audio in the config, or on a backend without media, that kind is not there.
  MediaEmbedder(const ModelConfig& config, const ModelWeights& weights, DType activations, int32_t max_rows, Backend& backend);

  bool takes_images() const { return dense_ != nullptr; }
  bool takes_audio() const { return audio_ != nullptr; }
  // Writes rows of x [rows, hidden] f32.
  void embed(std::span<const SoftRows> media, const Tensor& x);

 private:
  void embed_picture(const SoftRows& rows, const Tensor& out);
  const Tensor& weight(const char* name) const { return weights_.media.at(name); }

  const ModelConfig& config_;
  const ModelWeights& weights_;
  Backend& backend_;
  std::unique_ptr<PreparedLinear> dense_, vision_, audio_;
  Tensor input_, hidden_, normed_;  // [max_rows, ...]
};
}  // namespace nibble
