// A backend that hands every op on to another one and watches what enters linear layers and the KV cache: calibration without a word in the model.
//
// Weights are prepared when they are first used, and those beyond `keep_bytes` given back after each use: a model on the host then takes one layer of repacked weights
// at a time. For a host backend the layers share one pool of K and one of V pages: calibration's steps are whole prompts, so no layer reads an earlier step's.
#pragma once

#include <functional>
#include <initializer_list>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "kernels/backend.h"

namespace nibble {
// The largest magnitudes seen: at position 0 of the prompts (where the largest activations sit), and at all later ones.
struct Amax {
  float first = 0, rest = 0;
  float all() const { return first > rest ? first : rest; }
};

struct ObservingOptions {
  // By the address of a weight's data, and of a layer's k_norm, the name under which what it meets is remembered (k_norm: of the attention module; ".k" and ".v"
  // are added). Weights without a name are not watched.
  std::map<const void*, std::string> weight_names, k_norm_names;
  int64_t keep_bytes = 0;        // of repacked weights
  bool weights_are_mapped = false;  // from files, so that their pages may be dropped and read again
};

class ObservingBackend final : public Backend {
 public:
  ObservingBackend(Backend& inner, ObservingOptions options) : inner_(inner), options_(std::move(options)) {}

  std::map<std::string, Amax> amax;

  std::string description() const override { return inner_.description(); }
  bool on_host() const override { return inner_.on_host(); }
  void run_step(const StepPlan& plan, const std::function<void(int64_t, int64_t)>& body) override;
  Tensor allocate(DType dtype, const Shape& shape, const char* what) override;
  std::unique_ptr<PreparedLinear> prepare_linear(const LinearWeight& weight, ActivationQuant activations) override;
  void linear(const PreparedLinear& weight, const Tensor& x, const Tensor& out) override;
  void linear_group(std::span<const LinearJob> jobs, const Tensor& x) override;
  void gated_linear(const PreparedLinear& gate, const PreparedLinear& up, const Tensor& x, const Tensor& gate_out, const Tensor& up_out, const Tensor& out) override;
  void qkv_prepare(const QkvPrepareArgs& args) override;

  void rotary(const RotaryArgs& args) override { inner_.rotary(args); }
  void embed(const EmbedArgs& args) override { inner_.embed(args); }
  void rms_norm(const RmsNormArgs& args) override { inner_.rms_norm(args); }
  void rms_norm_add(const RmsNormAddArgs& args) override { inner_.rms_norm_add(args); }
  void attention(const AttentionArgs& args) override { inner_.attention(args); }
  void gelu_gate(const GeluGateArgs& args) override { inner_.gelu_gate(args); }
  void softcap(const Tensor& logits, float cap) override { inner_.softcap(logits, cap); }
  void gather_rows(const Tensor& x, std::span<const int32_t> rows, const Tensor& out) override { inner_.gather_rows(x, rows, out); }
  void candidates(const Tensor& logits, std::span<const LogitEdit> edits, const AllowedIds& allowed, std::span<const float> temperatures, int32_t count, Candidate* candidates, RowSummary* summaries) override {
    inner_.candidates(logits, edits, allowed, temperatures, count, candidates, summaries);
  }
  Roofs measure_roofs() override { return inner_.measure_roofs(); }
  void row_amax(const Tensor& x, float* largest) override { inner_.row_amax(x, largest); }
  void upload(const void* from, const Tensor& to) override { inner_.upload(from, to); }
  void download(const Tensor& from, void* to) override { inner_.download(from, to); }

 private:
  struct Watched;
  const PreparedLinear& use(const PreparedLinear& linear);
  void done_with(const PreparedLinear& linear);
  void see(std::initializer_list<const PreparedLinear*> linears, const Tensor& x);  // their common input; null ones do not count
  void see_pages(const std::string& name, const Tensor& pages);

  Backend& inner_;
  ObservingOptions options_;
  int64_t kept_bytes_ = 0;
  int64_t num_pools_ = 0;
  std::map<std::vector<int64_t>, Tensor> pools_;
  std::vector<bool> is_first_;   // of the rows of the step under way
  std::vector<float> largest_;   // scratch
};
}  // namespace nibble
