// Backend: the ops that the model is written against, at the grain of fused kernels. One virtual call per op and layer.
//
// A backend owns its device's memory and threads. Tensors passed to ops lie in memory that it allocated, or (weights, ids) in host memory that it was
// given at preparation. Ops are ordered: each sees the results of those before it.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "kernels/attention.h"
#include "kernels/candidates.h"
#include "kernels/draft.h"
#include "kernels/embed.h"
#include "kernels/gelu_gate.h"
#include "kernels/linear.h"
#include "kernels/media_embed.h"
#include "kernels/quantize_weights.h"
#include "kernels/rms_norm.h"

namespace nibble {
// A weight in the backend's own layout, made once at load.
class PreparedLinear {
 public:
  virtual ~PreparedLinear() = default;
  LinearShape shape;
  int64_t bytes = 0;   // memory that it holds beyond the checkpoint's own pages
  std::string kernel;  // what runs it, for the log: "avx512-bf16 nvfp4"
};

// How activations enter linear layers. NVFP4 weights with an input scale may ask for their inputs to be rounded to NVFP4 as well.
enum class ActivationQuant { none, nvfp4 };

// What one step is about, known before its first op. The ops of the step pass the same spans.
struct StepPlan {
  std::span<const int32_t> ids;
  std::span<const PagedRows> full_rows, sliding_rows;
  std::span<const int32_t> logit_rows;
  int32_t full_group = 1, sliding_group = 1;  // query heads per key/value head
  int32_t sliding_window = 0;
  std::span<const int32_t> last_visible;      // of the rows on sliding layers, as in AttentionArgs
  int32_t program = 0;  // steps of one size call the same ops iff their programs are equal: 0 the model, k > 0 a round of k drafts
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string description() const = 0;  // "cpu, 2 threads, avx512-bf16"
  virtual bool on_host() const { return true; } // whether its tensors may be read directly
  virtual bool is_lost() { return false; }      // whether an error has left it useless; asked after one
  struct Memory {
    int64_t total_bytes = 0, free_bytes = 0;
  };
  virtual Memory memory() const { return {}; }   // of a device's own; zeros on the host

  // Runs the ops of a step, which `body` calls for `rows` rows of which `logit_rows` want logits. A backend may pad both (pads read and write scratch alone),
  // and may record the ops and repeat the record for a later step of the same size, without calling `body`: what it calls, on which tensors, follows from the
  // sizes alone.
  virtual void run_step(const StepPlan& plan, const std::function<void(int64_t rows, int64_t logit_rows)>& body) {
    body(static_cast<int64_t>(plan.ids.size()), static_cast<int64_t>(plan.logit_rows.size()));
  }

  // Zeroed, aligned to 64 bytes; raises out_of_memory naming `what`.
  virtual Tensor allocate(DType dtype, const Shape& shape, const char* what) = 0;

  virtual std::unique_ptr<PreparedLinear> prepare_linear(const LinearWeight& weight, ActivationQuant activations) = 0;
  // x [rows, K] bf16 or f32, out [rows, N] f32. bf16 inputs use the fast kernels; f32 inputs compute in f32.
  virtual void linear(const PreparedLinear& weight, const Tensor& x, const Tensor& out) = 0;
  // The same for a result that more than the next op reads, or that is a part of a tensor: a backend may leave the sums of linear() apart till the op that reads
  // them, these it may not.
  virtual void linear_into(const PreparedLinear& weight, const Tensor& x, const Tensor& out) { linear(weight, x, out); }
  // Up to three linear layers of one input, as one op where a backend can.
  struct LinearJob {
    const PreparedLinear* weight;
    Tensor out;
  };
  virtual void linear_group(std::span<const LinearJob> jobs, const Tensor& x) {
    for (const LinearJob& job : jobs) linear(*job.weight, x, job.out);
  }
  // out = gelu(x Wgate^T) * (x Wup^T); gate_out and up_out [rows, inner] f32 are scratch that a backend may leave alone.
  virtual void gated_linear(const PreparedLinear& gate, const PreparedLinear& up, const Tensor& x, const Tensor& gate_out, const Tensor& up_out, const Tensor& out) {
    linear(gate, x, gate_out);
    linear(up, x, up_out);
    gelu_gate({.gate = gate_out, .up = up_out, .out = out});
  }

  virtual void rotary(const RotaryArgs& args) = 0;
  virtual void embed(const EmbedArgs& args) = 0;
  virtual void rms_norm(const RmsNormArgs& args) = 0;
  virtual void rms_norm_add(const RmsNormAddArgs& args) = 0;
  virtual void qkv_prepare(const QkvPrepareArgs& args) = 0;
  virtual void attention(const AttentionArgs& args) = 0;
  // Both, as one op where a backend can; q, k and v may be left as they were.
  virtual void prepare_and_attend(const QkvPrepareArgs& prepare, const AttentionArgs& args) {
    qkv_prepare(prepare);
    attention(args);
  }
  virtual void gelu_gate(const GeluGateArgs& args) = 0;
  virtual void softcap(const Tensor& logits, float cap) = 0;
  // out[i] = x[rows[i]]; x [n, hidden] f32, out [rows.size(), hidden] f32.
  virtual void gather_rows(const Tensor& x, std::span<const int32_t> rows, const Tensor& out) = 0;
  // Applies `edits` (sorted by row, one per row and id) and `allowed` to logits [rows, vocab] f32 and finds the `count` <= kMaxCandidates largest of each row over its
  // temperature, largest first, equal ones by id: candidates [rows, kMaxCandidates], summaries [rows], both on the host.
  virtual void candidates(const Tensor& logits, std::span<const LogitEdit> edits, const AllowedIds& allowed, std::span<const float> temperatures, int32_t count, Candidate* candidates, RowSummary* summaries) = 0;

  struct Roofs {
    double read_bytes_per_second = 0, bf16_flops = 0;  // measured; 0: unknown
  };
  virtual Roofs measure_roofs() = 0;
  // Those of this moment, from reading about `bytes` and forming products for about `seconds`: a CPU's memory is shared with neighbours. nullopt: they stand still.
  virtual std::optional<Roofs> roofs_now(int64_t /*bytes*/, double /*seconds*/) { return std::nullopt; }

  // Ops of a draft round (kernels/draft.h), where drafts() says that they are there.
  virtual bool drafts() const { return false; }
  virtual void draft_input(const DraftInputArgs&) { NB_ASSERT(false, "this backend does not draft"); }
  virtual void query_prepare(const QueryPrepareArgs&) { NB_ASSERT(false, "this backend does not draft"); }
  // As above, for queries alone.
  virtual void prepare_and_attend(const QueryPrepareArgs& prepare, const AttentionArgs& args) {
    query_prepare(prepare);
    attention(args);
  }
  virtual void argmax(const Tensor& /*logits*/, const Tensor& /*ids*/) { NB_ASSERT(false, "this backend does not draft"); }

  // Ops of the image and audio embedders (kernels/media_embed.h) and AttentionArgs::last_visible, where takes_media() says that they are there. Steps with media
  // have a negative program: their ops follow from more than their size, so they are not repeated.
  virtual bool takes_media() const { return false; }
  virtual void patch_norm(const PatchNormArgs&) { NB_ASSERT(false, "this backend takes no media"); }
  virtual void patch_position(const PatchPositionArgs&) { NB_ASSERT(false, "this backend takes no media"); }
  virtual void frame_norm(const FrameNormArgs&) { NB_ASSERT(false, "this backend takes no media"); }

  // Largest |x| of each row of the backend's tensor x [rows, ...], bf16 or f32 (f32 on the host alone), to the host: what calibration sees.
  virtual void row_amax(const Tensor& /*x*/, float* /*largest*/) { NB_ASSERT(false, "this backend does not calibrate"); }

  // The weight quantizers of kernels/quantize_weights.h, host tensors in and out, the same bytes as the cpu:: ones, where quantizes() says that they are there.
  virtual bool quantizes() const { return false; }
  virtual QuantError quantize_nvfp4(const QuantizeNvfp4Args&) { NB_ASSERT(false, "this backend does not quantize"); }
  virtual QuantError quantize_fp8(const QuantizeFp8Args&) { NB_ASSERT(false, "this backend does not quantize"); }

  // Copies between host memory and the backend's tensors; they return when the bytes are there.
  virtual void upload(const void* from, const Tensor& to) = 0;
  virtual void download(const Tensor& from, void* to) = 0;
};

struct CpuBackendOptions {
  int num_threads = 0;  // 0: one per core
};
std::unique_ptr<Backend> make_cpu_backend(const CpuBackendOptions& options);

struct CudaBackendOptions {
  int device = 0;
  int64_t max_rows = 512;   // rows of one step
  bool record = true;       // repeat small steps as CUDA graphs
  int32_t wide_attention_rows = 48;  // from so many rows of one sequence on attention runs on tiles of 64, in steps that are not recorded; same bits
};
// Raises unavailable, with the reason, in a build without CUDA or on a machine without a device that it runs on.
std::unique_ptr<Backend> make_cuda_backend(const CudaBackendOptions& options);
bool has_cuda_device(int device = 0);  // one that it would not refuse
}  // namespace nibble
