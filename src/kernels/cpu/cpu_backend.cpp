// The CPU backend: allocates, picks kernels, and hands each op to its function.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <vector>

#include "base/error.h"
#include "base/thread_pool.h"
#include "kernels/backend.h"
#include "kernels/cpu/attention.h"
#include "kernels/cpu/cpu_features.h"
#include "kernels/cpu/packed_linear.h"
#include "kernels/cpu/roofs.h"
#include "kernels/softcap.h"

namespace nibble {
namespace {
struct FreeAligned {
  void operator()(void* p) const noexcept { std::free(p); }
};

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(const CpuBackendOptions& options) : threads_(options.num_threads) {}

  std::string description() const override { return fmt::format("cpu, {} threads, {}", threads_.size(), cpu::name_of(cpu::active_isa())); }

  Tensor allocate(DType dtype, const Shape& shape, const char* what) override {
    const size_t bytes = (static_cast<size_t>(shape.count() * size_of(dtype)) + 63) / 64 * 64;
    void* memory = bytes ? std::aligned_alloc(64, bytes) : nullptr;
    if (!memory && bytes) raise(ErrorCode::out_of_memory, "{}: cannot allocate {} bytes of host memory", what, bytes);
    if (memory) std::memset(memory, 0, bytes);
    memory_.emplace_back(memory);
    return {memory, dtype, shape};
  }

  std::unique_ptr<PreparedLinear> prepare_linear(const LinearWeight& weight, ActivationQuant activations) override {
    return cpu::pack_linear(weight, activations, threads_);
  }
  void linear(const PreparedLinear& weight, const Tensor& x, const Tensor& out) override { cpu::run_linear(weight, x, out, threads_); }

  void embed(const EmbedArgs& args) override { cpu::embed(args); }
  void rms_norm(const RmsNormArgs& args) override { cpu::rms_norm(args, threads_); }
  void rms_norm_add(const RmsNormAddArgs& args) override { cpu::rms_norm_add(args, threads_); }
  void rotary(const RotaryArgs& args) override { cpu::rotary(args); }
  void qkv_prepare(const QkvPrepareArgs& args) override { cpu::qkv_prepare(args, threads_); }
  void attention(const AttentionArgs& args) override { cpu::attention(args, threads_); }
  void gelu_gate(const GeluGateArgs& args) override { cpu::gelu_gate(args, threads_); }
  void softcap(const Tensor& logits, float cap) override { cpu::softcap(logits, cap, threads_); }
  void gather_rows(const Tensor& x, std::span<const int32_t> rows, const Tensor& out) override {
    const size_t bytes = static_cast<size_t>(x.cols()) * sizeof(float);
    for (size_t i = 0; i < rows.size(); ++i) std::memcpy(out.as<float>() + static_cast<int64_t>(i) * x.cols(), x.as<float>() + rows[i] * x.cols(), bytes);
  }
  void candidates(const Tensor& logits, std::span<const LogitEdit> edits, const AllowedIds& allowed, std::span<const float> temperatures, int32_t count, Candidate* out, RowSummary* summaries) override {
    cpu::find_candidates(logits, edits, allowed, temperatures, count, out, summaries);
  }
  Roofs measure_roofs() override {
    Roofs best;
    for (int pass = 0; pass < 8; ++pass) {
      const Roofs now = *roofs_now(int64_t{512} << 20, 0.01);
      best = {std::max(best.read_bytes_per_second, now.read_bytes_per_second), std::max(best.bf16_flops, now.bf16_flops)};
    }
    return best;
  }
  std::optional<Roofs> roofs_now(int64_t bytes, double seconds) override {
    if (!meter_) meter_ = std::make_unique<cpu::RoofMeter>(threads_);
    const double flops = meter_->bf16_rate(seconds);
    return Roofs{meter_->read_rate(bytes), flops};
  }
  void draft_input(const DraftInputArgs& args) override { cpu::draft_input(args); }
  void query_prepare(const QueryPrepareArgs& args) override { cpu::query_prepare(args, threads_); }
  void argmax(const Tensor& logits, const Tensor& ids) override { cpu::argmax(logits, ids, threads_); }
  bool drafts() const override { return true; }
  bool takes_media() const override { return true; }
  void patch_norm(const PatchNormArgs& args) override { cpu::patch_norm(args, threads_); }
  void patch_position(const PatchPositionArgs& args) override { cpu::patch_position(args, threads_); }
  void frame_norm(const FrameNormArgs& args) override { cpu::frame_norm(args); }
  void row_amax(const Tensor& x, float* largest) override { cpu::row_amax(x, largest, threads_); }
  void upload(const void* from, const Tensor& to) override { std::memcpy(to.data, from, static_cast<size_t>(to.bytes())); }
  void download(const Tensor& from, void* to) override { std::memcpy(to, from.data, static_cast<size_t>(from.bytes())); }

 private:
  ThreadPool threads_;
  std::vector<std::unique_ptr<void, FreeAligned>> memory_;
  std::unique_ptr<cpu::RoofMeter> meter_;  // once asked for
};
}  // namespace

std::unique_ptr<Backend> make_cpu_backend(const CpuBackendOptions& options) { return std::make_unique<CpuBackend>(options); }
}  // namespace nibble
