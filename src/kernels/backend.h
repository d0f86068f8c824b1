// Backend: the ops that the model is written against, at the grain of fused kernels. One virtual call per op and layer.
//
// A backend owns its device's memory and threads. Tensors passed to ops lie in memory that it allocated, or (weights, ids) in host memory that it was
// given at preparation. Ops are ordered: each sees the results of those before it.
#pragma once

#include <memory>
#include <string>

#include "kernels/attention.h"
#include "kernels/embed.h"
#include "kernels/gelu_gate.h"
#include "kernels/linear.h"
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

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string description() const = 0;  // "cpu, 2 threads, avx512-bf16"

  // Zeroed, aligned to 64 bytes; raises out_of_memory naming `what`.
  virtual Tensor allocate(DType dtype, const Shape& shape, const char* what) = 0;

  virtual std::unique_ptr<PreparedLinear> prepare_linear(const LinearWeight& weight, ActivationQuant activations) = 0;
  // x [rows, K] bf16 or f32, out [rows, N] f32. bf16 inputs use the fast kernels; f32 inputs compute in f32.
  virtual void linear(const PreparedLinear& weight, const Tensor& x, const Tensor& out) = 0;

  virtual void embed(const EmbedArgs& args) = 0;
  virtual void rms_norm(const RmsNormArgs& args) = 0;
  virtual void rms_norm_add(const RmsNormAddArgs& args) = 0;
  virtual void qkv_prepare(const QkvPrepareArgs& args) = 0;
  virtual void attention(const AttentionArgs& args) = 0;
  virtual void gelu_gate(const GeluGateArgs& args) = 0;
  virtual void softcap(const Tensor& logits, float cap) = 0;
  // out[i] = x[rows[i]]; x [n, hidden] f32, out [rows.size(), hidden] f32.
  virtual void gather_rows(const Tensor& x, std::span<const int32_t> rows, const Tensor& out) = 0;
  // Copies between host and device memory; returns when the bytes are there.
  virtual void download(const Tensor& from, void* to) = 0;
};

struct CpuBackendOptions {
  int num_threads = 0;  // 0: one per core
};
std::unique_ptr<Backend> make_cpu_backend(const CpuBackendOptions& options);
}  // namespace nibble
