// The CUDA backend: memory, repacked weights, the tables of a step, and recorded steps. Each op is one call of a kernel's host function.
#include <cuda.h>
#include <cudaTypedefs.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <set>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "base/error.h"
#include "base/number_formats.h"
#include "kernels/backend.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_prefill.h"
#include "kernels/cuda/candidates.h"
#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/draft.h"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/media_embed.h"
#include "kernels/cuda/quantize_rows.h"
#include "kernels/cuda/quantize_weights.h"
#include "kernels/cuda/roofs.h"
#include "kernels/cuda/step_table_upload.h"

namespace nibble {
namespace {
using namespace cuda;

class CudaLinear final : public PreparedLinear {
 public:
  PackedWeight weight;
  DeviceMemory blocks, scales;
  float activation_scale = 0.0f;  // > 0: inputs are rounded to NVFP4 with this global scale
};
const PackedWeight& packed(const PreparedLinear& linear) { return static_cast<const CudaLinear&>(linear).weight; }
float activation_scale(const PreparedLinear& linear) { return static_cast<const CudaLinear&>(linear).activation_scale; }

constexpr int64_t kPartialBytes = int64_t{1} << 30, kStagingBytes = int64_t{64} << 20;

// Raises unavailable where the kernels cannot run.
cudaDeviceProp usable_device(int device) {
  int count = 0;
  if (const cudaError_t status = cudaGetDeviceCount(&count); status != cudaSuccess || count <= device) {
    (void)cudaGetLastError();
    raise(ErrorCode::unavailable, "--device cuda: {} (devices found: {})", status == cudaSuccess ? "no such device" : cudaGetErrorString(status), count);
  }
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
  if (properties.major != 9 || properties.minor != 0) {
    raise(ErrorCode::unavailable, "--device cuda: {} has compute capability {}.{}; this build's kernels run on 9.0 (Hopper); use --device cpu", properties.name, properties.major,
          properties.minor);
  }
  return properties;
}

class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(const CudaBackendOptions& options) : options_(options), properties_(usable_device(options.device)) {
    check(cudaSetDevice(options.device), "cudaSetDevice");
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
    upload_ = std::make_unique<StepTableUpload>(options_);
    cudaDriverEntryPointQueryResult found{};
    void* entry = nullptr;
    check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &found), "cuTensorMapEncodeTiled");
    encode_map_ = reinterpret_cast<decltype(encode_map_)>(entry);
  }

  ~CudaBackend() override {
    cudaStreamSynchronize(stream_);
    for (auto& [size, graph] : graphs_) cudaGraphExecDestroy(graph);
    if (staging_) cudaFreeHost(staging_);
    if (exchange_) cudaFreeHost(exchange_);
    for (cudaEvent_t event : staged_) {
      if (event) cudaEventDestroy(event);
    }
    cudaStreamDestroy(stream_);
  }

  std::string description() const override {
    return fmt::format("cuda device {}: {}, {} multiprocessors, {} MiB, sm_{}{}a", options_.device, properties_.name, properties_.multiProcessorCount,
                       properties_.totalGlobalMem >> 20, properties_.major, properties_.minor);
  }
  bool on_host() const override { return false; }
  // An error of a kernel stays with the context for ever, one of a call does not.
  bool is_lost() override {
    (void)cudaGetLastError();
    return cudaDeviceSynchronize() != cudaSuccess;
  }
  Memory memory() const override {
    size_t free = 0, total = 0;
    check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
    return {static_cast<int64_t>(total), static_cast<int64_t>(free)};
  }

  Tensor allocate(DType dtype, const Shape& shape, const char* what) override {
    // Tiles of the tensor copy engine may reach 128 rows past the end.
    const int64_t bytes = shape.count() * size_of(dtype);
    DeviceMemory memory = device_memory(bytes, what);
    if (bytes > 0) check(cudaMemsetAsync(memory.get(), 0, static_cast<size_t>(bytes), stream_), what);
    const Tensor tensor{memory.get(), dtype, shape};
    memory_.push_back(std::move(memory));
    return tensor;
  }

  std::unique_ptr<PreparedLinear> prepare_linear(const LinearWeight& weight, ActivationQuant activations) override {
    auto linear = std::make_unique<CudaLinear>();
    linear->shape = shape_of(weight);
    PackedWeight& w = linear->weight;
    w.n = static_cast<int>(linear->shape.out_features);
    w.k = static_cast<int>(linear->shape.in_features);
    NB_ASSERT(w.k % 8 == 0, "linear inputs come in eights");
    const Tensor* codes = nullptr;
    const Tensor* block_scales = nullptr;
    if (const auto* bf = std::get_if<Bf16Weight>(&weight)) {
      w.format = WeightFormat::bf16;
      codes = &bf->weight;
    } else if (const auto* fp4 = std::get_if<Nvfp4Weight>(&weight)) {
      w.format = WeightFormat::nvfp4;
      codes = &fp4->codes;
      block_scales = &fp4->block_scales;
      w.factor = fp4->tensor_scale * 0x1p19f;  // unpack_nvfp4 leaves values times 2^-19
      if (activations == ActivationQuant::nvfp4 && fp4->input_scale > 0) {
        linear->activation_scale = fp4->input_scale;
        w.factor *= fp4->input_scale;
        // Before any step is recorded: its address is to stay.
        if (const int64_t bytes = options_.max_rows * w.k * 2; quantized_bytes_ < bytes) {
          quantized_.reset();
          quantized_ = device_memory(bytes, "rounded activations (lower them with --chunked-prefill-size)");
          quantized_bytes_ = bytes;
        }
      }
    } else {
      const auto& fp8 = std::get<Fp8BlockWeight>(weight);
      w.format = WeightFormat::fp8_block;
      w.factor = 0x1p60f;  // unpack_fp8 leaves values times 2^-120, of which inputs or weights take 2^60 back
      codes = &fp8.codes;
      linear->scales = device_memory(fp8.scales.bytes(), "weights");
      copy_to_device(linear->scales.get(), fp8.scales.data, fp8.scales.bytes());
      w.scales = static_cast<const float*>(linear->scales.get());
    }
    w.tiles = (w.n + 2 * kTileOutputs - 1) / (2 * kTileOutputs) * 2;
    w.slices = choose_slices(w.format, w.k);
    w.units = (w.k / w.slices + unit_inputs(w.format) - 1) / unit_inputs(w.format);
    linear->bytes = w.bytes();
    linear->blocks = device_memory(w.bytes(), "weights");
    const char* const arithmetic = w.format == WeightFormat::bf16 ? "bf16" : w.format == WeightFormat::fp8_block ? "fp8 w8a16" : linear->activation_scale > 0 ? "nvfp4 w4a4 (emulated)" : "nvfp4 w4a16";
    linear->kernel = fmt::format("sm90 {} (narrow: mma.sync, wide: wgmma)", arithmetic);
    w.blocks = static_cast<const uint8_t*>(linear->blocks.get());

    const int64_t scale_bytes = block_scales ? block_scales->bytes() : 0, code_bytes = (codes->bytes() + 255) / 256 * 256;
    if (raw_bytes_ < code_bytes + scale_bytes) {
      raw_.reset();
      raw_ = device_memory(code_bytes + scale_bytes, "a staged weight");
      raw_bytes_ = code_bytes + scale_bytes;
    }
    auto* const raw = static_cast<std::byte*>(raw_.get());
    copy_to_device(raw, codes->data, codes->bytes());
    if (block_scales) copy_to_device(raw + code_bytes, block_scales->data, scale_bytes);
    pack_weight(w, raw, raw + code_bytes, static_cast<uint8_t*>(linear->blocks.get()), stream_);
    check(cudaGetLastError(), "pack_weight");
    return linear;
  }

  void run_step(const StepPlan& plan, const std::function<void(int64_t, int64_t)>& body) override {
    plan_ = &plan;
    if (raw_) raw_.reset(), raw_bytes_ = 0;  // all weights have come
    const StepSize size = upload_->fill(plan, tables_, stream_);
    size_ = size;
    // The first step of a size may allocate, and is not worth a record yet.
    if (!size.recorded || seen_.insert(size).second) {
      body(size.rows, size.logit_rows);
      check(cudaGetLastError(), "a step");
      return;
    }
    auto found = graphs_.find(size);
    if (found == graphs_.end()) {
      cudaGraph_t graph = nullptr;
      check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
      body(size.rows, size.logit_rows);
      check(cudaStreamEndCapture(stream_, &graph), "cudaStreamEndCapture");
      cudaGraphExec_t executable = nullptr;
      const cudaError_t status = cudaGraphInstantiate(&executable, graph, 0);
      cudaGraphDestroy(graph);
      check(status, "cudaGraphInstantiate");
      found = graphs_.emplace(size, executable).first;
    }
    check(cudaGraphLaunch(found->second, stream_), "cudaGraphLaunch");
  }

  void linear(const PreparedLinear& weight, const Tensor& x, const Tensor& out) override {
    const LinearJob job{&weight, out};
    linear_group({&job, 1}, x);
  }
  void linear_into(const PreparedLinear& weight, const Tensor& x, const Tensor& out) override {
    // The sums of slices are kept under an address of the weight's own.
    const Tensor sums{const_cast<PreparedLinear*>(&weight), DType::f32, out.shape};
    if (packed(weight).slices == 1) return linear(weight, x, out);
    linear(weight, x, sums);
    const Partial p = partial(sums);
    add_slices(p.data, p.slices, p.stride, out.count(), out.as<float>(), stream_);
  }

  void linear_group(std::span<const LinearJob> jobs, const Tensor& x) override {
    const PackedWeight& first = packed(*jobs[0].weight);
    for (const LinearJob& job : jobs) {
      const PackedWeight& w = packed(*job.weight);
      if (w.format == first.format && w.slices == first.slices && w.k == first.k && activation_scale(*job.weight) == activation_scale(*jobs[0].weight)) continue;
      for (const LinearJob& each : jobs) linear(*each.weight, x, each.out);
      return;
    }
    const Tensor input = rounded(x, activation_scale(*jobs[0].weight));
    LinearCall call{.x = input.data, .rows = static_cast<int>(x.rows()), .targets = {}, .num_targets = static_cast<int>(jobs.size()), .gated = nullptr};
    for (size_t i = 0; i < jobs.size(); ++i) {
      const PackedWeight& w = packed(*jobs[i].weight);
      auto* out = jobs[i].out.as<float>();
      pending_.erase(out);
      int64_t stride = 0;
      if (w.slices > 1) {
        stride = x.rows() * w.n;
        auto* const slices = static_cast<float*>(slices_for(out, int64_t{w.slices} * options_.max_rows * w.n * 4));
        pending_[out] = {slices, w.slices, stride};
        out = slices;
      }
      call.targets[i] = {w, out, stride};
    }
    multiply(call, input);
  }

  void gated_linear(const PreparedLinear& gate, const PreparedLinear& up, const Tensor& x, const Tensor& gate_out, const Tensor& up_out, const Tensor& out) override {
    const PackedWeight &g = packed(gate), &u = packed(up);
    if (g.format != u.format || g.slices > 1 || u.slices > 1 || activation_scale(gate) != activation_scale(up)) {
      linear(gate, x, gate_out);
      linear(up, x, up_out);
      gelu_gate({.gate = gate_out, .up = up_out, .out = out});
      return;
    }
    const Tensor input = rounded(x, activation_scale(gate));
    multiply({.x = input.data, .rows = static_cast<int>(x.rows()), .targets = {{g, nullptr, 0}, {u, nullptr, 0}, {}}, .num_targets = 2, .gated = out.data}, input);
  }

  void rotary(const RotaryArgs& args) override {
    const Tensor frequencies{const_cast<float*>(args.frequencies.data()), DType::f32, {static_cast<int64_t>(args.frequencies.size())}};
    cuda::rotary(tables_.positions, static_cast<const float*>(constant(frequencies)), args.table.cos.as<float>(), args.table.sin.as<float>(),
                 static_cast<int>(args.table.cos.rows()), static_cast<int>(args.table.cos.cols()), stream_);
  }
  void embed(const EmbedArgs& args) override {
    cuda::embed(tables_.ids, static_cast<const __nv_bfloat16*>(constant(args.table)), args.scale, args.out.as<float>(), static_cast<int>(args.out.rows()),
                static_cast<int>(args.out.cols()), stream_);
  }
  void rms_norm(const RmsNormArgs& args) override {
    cuda::rms_norm(added(args.x), norm_weight(args.weight), args.out.as<__nv_bfloat16>(), static_cast<int>(args.x.rows()), static_cast<int>(args.x.cols()), args.eps, stream_);
  }
  void rms_norm_add(const RmsNormAddArgs& args) override {
    const Partial x = partial(args.x);
    cuda::rms_norm_add({.x = x.data, .slices = x.slices, .slice_stride = x.stride, .weight = norm_weight(args.weight), .residual = args.residual.as<float>(), .scale = args.scale,
                        .next_weight = args.next_weight ? norm_weight(args.next_weight) : nullptr, .out = args.out.as<__nv_bfloat16>(),
                        .rows = static_cast<int>(args.x.rows()), .hidden = static_cast<int>(args.x.cols()), .eps = args.eps},
                       stream_);
  }
  void qkv_prepare(const QkvPrepareArgs& args) override {
    const QkvPrepare call = prepare_call(args);
    prepared_q_ = call.q;
    cuda::qkv_prepare(call, stream_);
  }
  void prepare_and_attend(const QkvPrepareArgs& prepare, const AttentionArgs& args) override { prepare_and_attend_in_one(prepare, args); }
  void prepare_and_attend(const QueryPrepareArgs& prepare, const AttentionArgs& args) override { prepare_and_attend_in_one(prepare, args); }
  void attention(const AttentionArgs& args) override {
    cuda::Attention call = attention_call(args);
    const PoolTables& pool = pool_of(args.sequences);
    const std::span<const SequenceTiles> sequences = upload_->wide_of(&pool == &tables_.full);
    if (!attention_prefill_supports(call.heads, call.kv_heads, call.dim, args.window) || sequences.empty()) {
      cuda::attention(call, stream_);
      return;
    }
    // Sequences of many rows and others take turns, neighbours of a kind together.
    const auto is_wide = [&](const SequenceTiles& s) { return s.wide.num_tiles > 0 && attention_prefill_fits(call, s.wide); };
    for (size_t begin = 0, end = 0; begin < sequences.size(); begin = end) {
      while (end < sequences.size() && is_wide(sequences[end]) == is_wide(sequences[begin])) ++end;
      if (is_wide(sequences[begin])) {
        std::vector<WideSequence> wide;
        for (size_t i = begin; i < end; ++i) wide.push_back(sequences[i].wide);
        attention_prefill(call, wide, prefill_counters(), stream_);
      } else {
        call.pool.tiles = pool.tiles + sequences[begin].first_tile;
        call.pool.num_tiles = sequences[end - 1].first_tile + sequences[end - 1].num_tiles - sequences[begin].first_tile;
        cuda::attention(call, stream_);
      }
    }
  }
  void gelu_gate(const GeluGateArgs& args) override {
    cuda::gelu_gate(added(args.gate), added(args.up), args.out.as<__nv_bfloat16>(), args.gate.count(), stream_);
  }
  void softcap(const Tensor& logits, float cap) override {
    NB_ASSERT(logits.count() % 4 == 0, "logits come in fours");
    if (cap != 0.0f) cuda::softcap(added(logits), logits.count(), cap, stream_);
  }
  void gather_rows(const Tensor& x, std::span<const int32_t>, const Tensor& out) override {
    cuda::gather_rows(x.as<float>(), tables_.logit_rows, out.as<float>(), static_cast<int>(out.rows()), static_cast<int>(x.cols()), stream_);
  }
  void candidates(const Tensor& logits, std::span<const LogitEdit> edits, const AllowedIds& allowed, std::span<const float> temperatures, int32_t count, Candidate* out, RowSummary* summaries) override {
    const auto rows = logits.rows(), vocab = logits.cols();
    // One pinned buffer: temperatures, edits and masks go in, summaries and candidates come out.
    const auto edit_bytes = static_cast<int64_t>(edits.size_bytes()), row_bytes = static_cast<int64_t>(allowed.rows.size_bytes()), mask_bytes = static_cast<int64_t>(allowed.bits.size_bytes());
    const int64_t edits_at = rows * 4, rows_at = edits_at + edit_bytes, masks_at = rows_at + row_bytes, in_bytes = masks_at + mask_bytes;
    const int64_t out_bytes = rows * (static_cast<int64_t>(sizeof(RowSummary)) + kMaxCandidates * 8);
    if (exchange_bytes_ < in_bytes + out_bytes + 16) {
      if (exchange_) cudaFreeHost(exchange_);
      exchange_bytes_ = 2 * (in_bytes + out_bytes) + 16;
      check(cudaHostAlloc(reinterpret_cast<void**>(&exchange_), static_cast<size_t>(exchange_bytes_), cudaHostAllocDefault), "pinned memory");
      device_exchange_ = device_memory(exchange_bytes_, "sampling");
    }
    const int64_t scratch_bytes = candidate_scratch_bytes(static_cast<int>(rows), static_cast<int>(vocab));
    if (candidate_scratch_bytes_ < scratch_bytes) {
      candidate_scratch_ = device_memory(scratch_bytes, "sampling");
      candidate_scratch_bytes_ = scratch_bytes;
    }
    std::memcpy(exchange_, temperatures.data(), static_cast<size_t>(rows) * 4);
    const auto put = [&](int64_t at, const void* from, int64_t bytes) {
      if (bytes > 0) std::memcpy(exchange_ + at, from, static_cast<size_t>(bytes));
    };
    put(edits_at, edits.data(), edit_bytes);
    put(rows_at, allowed.rows.data(), row_bytes);
    put(masks_at, allowed.bits.data(), mask_bytes);
    auto* const device = static_cast<std::byte*>(device_exchange_.get());
    check(cudaMemcpyAsync(device, exchange_, static_cast<size_t>(in_bytes), cudaMemcpyHostToDevice, stream_), "sampling");
    auto* const device_summaries = reinterpret_cast<RowSummary*>(device + (in_bytes + 15) / 16 * 16);
    auto* const device_candidates = reinterpret_cast<Candidate*>(device_summaries + rows);
    find_candidates(added(logits), static_cast<int>(rows), static_cast<int>(vocab), reinterpret_cast<const float*>(device), reinterpret_cast<const LogitEdit*>(device + edits_at),
                    static_cast<int>(edits.size()), reinterpret_cast<const int32_t*>(device + rows_at), reinterpret_cast<const uint32_t*>(device + masks_at), static_cast<int>(allowed.rows.size()), count,
                    candidate_scratch_.get(), device_candidates, device_summaries, stream_);
    check(cudaGetLastError(), "sampling");
    check(cudaMemcpyAsync(exchange_, device_summaries, static_cast<size_t>(out_bytes), cudaMemcpyDeviceToHost, stream_), "sampling");
    check(cudaStreamSynchronize(stream_), "a step on the device");
    std::memcpy(summaries, exchange_, static_cast<size_t>(rows) * sizeof(RowSummary));
    std::memcpy(out, exchange_ + rows * static_cast<int64_t>(sizeof(RowSummary)), static_cast<size_t>(rows) * kMaxCandidates * sizeof(Candidate));
  }
  bool drafts() const override { return true; }
  void draft_input(const DraftInputArgs& args) override {
    NB_ASSERT(args.round_to_bf16 && args.out.dtype == DType::bf16 && args.table.cols() % 4 == 0, "the CUDA backend drafts in bf16, widths come in fours");
    const bool f32 = args.hidden.dtype == DType::f32;
    cuda::draft_input({.ids = args.ids.empty() ? args.chosen.as<int32_t>() : tables_.ids, .table = static_cast<const __nv_bfloat16*>(constant(args.table)), .scale = args.scale,
                       .hidden = f32 ? added(args.hidden) : args.hidden.data, .hidden_is_f32 = f32, .hidden_rows = args.hidden_rows.empty() ? nullptr : tables_.logit_rows,
                       .out = args.out.as<__nv_bfloat16>(), .rows = static_cast<int>(args.out.rows()), .width = static_cast<int>(args.table.cols())},
                      stream_);
  }
  void query_prepare(const QueryPrepareArgs& args) override {
    const QkvPrepare call = prepare_call(args);
    prepared_q_ = call.q;
    cuda::qkv_prepare(call, stream_);
  }
  void argmax(const Tensor& logits, const Tensor& ids) override {
    const int vocab = static_cast<int>(logits.cols()), max_rows = static_cast<int>(options_.max_rows);
    DeviceMemory& scratch = argmax_scratch_[vocab];
    if (!scratch) {
      const int64_t bytes = argmax_scratch_bytes(max_rows, vocab);
      scratch = device_memory(bytes, "sampling");
      check(cudaMemsetAsync(scratch.get(), 0, static_cast<size_t>(bytes), stream_), "sampling");
    }
    cuda::argmax(added(logits), static_cast<int>(logits.rows()), vocab, scratch.get(), max_rows, ids.as<int32_t>(), stream_);
  }

  bool takes_media() const override { return true; }
  void patch_norm(const PatchNormArgs& args) override {
    NB_ASSERT(args.out.dtype == DType::bf16, "the CUDA backend embeds in bf16");
    cuda::patch_norm(static_cast<const uint8_t*>(media_input(args.pixels.data(), static_cast<int64_t>(args.pixels.size_bytes()))), norm_weight(args.weight), norm_weight(args.bias),
                     args.out.as<__nv_bfloat16>(), static_cast<int>(args.out.rows()), static_cast<int>(args.out.cols()), stream_);
  }
  void patch_position(const PatchPositionArgs& args) override {
    const auto last_line = (args.first_patch + args.x.rows() - 1) / args.columns;
    NB_ASSERT(args.out.dtype == DType::bf16 && std::max<int64_t>(args.columns - 1, last_line) < args.positions.shape[0], "bf16 out, no patch beyond the position table");
    cuda::patch_position({.x = added(args.x), .dense_bias = norm_weight(args.dense_bias), .ln_weight = norm_weight(args.ln_weight), .ln_bias = norm_weight(args.ln_bias),
                          .positions = norm_weight(args.positions), .columns = args.columns, .first_patch = args.first_patch, .norm_weight = norm_weight(args.norm_weight),
                          .norm_bias = norm_weight(args.norm_bias), .out = args.out.as<__nv_bfloat16>(), .rows = static_cast<int>(args.x.rows()), .width = static_cast<int>(args.x.cols()),
                          .eps = args.eps},
                         stream_);
  }
  void frame_norm(const FrameNormArgs& args) override {
    NB_ASSERT(args.out.dtype == DType::bf16, "the CUDA backend embeds in bf16");
    cuda::frame_norm(static_cast<const float*>(media_input(args.samples.data(), static_cast<int64_t>(args.samples.size_bytes()))), args.out.as<__nv_bfloat16>(),
                     static_cast<int>(args.out.rows()), static_cast<int>(args.out.cols()), args.eps, stream_);
  }

  Roofs measure_roofs() override { return {measure_read_bandwidth(stream_), measure_bf16_peak(stream_)}; }
  void row_amax(const Tensor& x, float* largest) override {
    NB_ASSERT(x.dtype == DType::bf16, "bf16");
    const int64_t rows = x.shape[0];
    if (amax_rows_ < rows) amax_ = device_memory((amax_rows_ = rows) * 4, "calibration");
    cuda::row_amax(x.as<__nv_bfloat16>(), static_cast<float*>(amax_.get()), rows, x.count() / std::max<int64_t>(rows, 1), stream_);
    download({amax_.get(), DType::f32, {rows}}, largest);
  }
  bool quantizes() const override { return true; }
  QuantError quantize_nvfp4(const QuantizeNvfp4Args& args) override { return quantizer_.quantize_nvfp4(args); }
  QuantError quantize_fp8(const QuantizeFp8Args& args) override { return quantizer_.quantize_fp8(args); }
  void upload(const void* from, const Tensor& to) override {
    copy_to_device(to.data, from, to.bytes());
    check(cudaStreamSynchronize(stream_), "upload");
  }
  void download(const Tensor& from, void* to) override {
    check(cudaMemcpyAsync(to, added(from), static_cast<size_t>(from.bytes()), cudaMemcpyDeviceToHost, stream_), "download");
    check(cudaStreamSynchronize(stream_), "a step on the device");
  }

 private:
  struct Partial {
    float* data;
    int slices = 1;
    int64_t stride = 0;
  };
  struct SliceMemory {
    DeviceMemory memory;
    int64_t bytes = 0;
  };

  QkvPrepare prepare_call(const QkvPrepareArgs& args) {
    const Partial q = partial(args.q), k = partial(args.k), v = partial(args.v);
    check_heads(static_cast<int>(args.q.shape[1]), static_cast<int>(args.k.shape[1]), static_cast<int>(args.q.shape[2]));
    // One count of slices for all three: sum those that differ.
    const bool same = q.slices == k.slices && k.slices == v.slices;
    return {.q = same ? q.data : added(args.q), .k = same ? k.data : added(args.k), .v = same ? v.data : added(args.v), .slices = same ? q.slices : 1, .q_stride = q.stride,
            .k_stride = k.stride, .v_stride = v.stride, .q_norm = norm_weight(args.q_norm), .k_norm = norm_weight(args.k_norm), .cos = args.rotary.cos.as<float>(),
            .sin = args.rotary.sin.as<float>(), .k_pages = args.k_pages.data, .v_pages = args.v_pages.data, .slots = pool_of(args.sequences).slots,
            .rows = static_cast<int>(args.q.shape[0]), .heads = static_cast<int>(args.q.shape[1]), .kv_heads = static_cast<int>(args.k.shape[1]), .dim = static_cast<int>(args.q.shape[2]),
            .pairs = static_cast<int>(args.rotary.cos.cols()), .e4m3 = cache_is_e4m3(args.k_pages), .eps = args.eps};
  }
  // As for queries, keys and values, with no heads of the latter two.
  QkvPrepare prepare_call(const QueryPrepareArgs& args) {
    const int heads = static_cast<int>(args.q.shape[1]), dim = static_cast<int>(args.q.shape[2]);
    check_heads(heads, heads, dim);
    const Partial q = partial(args.q);
    return {.q = q.data, .k = q.data, .v = q.data, .slices = q.slices, .q_stride = q.stride, .k_stride = 0, .v_stride = 0, .q_norm = norm_weight(args.q_norm),
            .k_norm = norm_weight(args.q_norm), .cos = args.rotary.cos.as<float>(), .sin = args.rotary.sin.as<float>(), .k_pages = nullptr, .v_pages = nullptr,
            .slots = tables_.full.slots, .rows = static_cast<int>(args.q.shape[0]), .heads = heads, .kv_heads = 0, .dim = dim,
            .pairs = args.rotary.cos ? static_cast<int>(args.rotary.cos.cols()) : 0, .e4m3 = false, .eps = args.eps};
  }
  // In one launch where there is a kernel for it.
  template <typename PrepareArgs>
  void prepare_and_attend_in_one(const PrepareArgs& prepare, const AttentionArgs& args) {
    const Attention call = attention_call(args);
    if (!attention_decode_fits(call) || partial(prepare.q).slices > 1) return Backend::prepare_and_attend(prepare, args);
    const QkvPrepare prepared = prepare_call(prepare);
    attention_decode(call, &prepared, stream_);
  }
  Attention attention_call(const AttentionArgs& args) {
    const int heads = static_cast<int>(args.q.shape[1]), kv_heads = static_cast<int>(args.k_pages.shape[1]), dim = static_cast<int>(args.q.shape[2]);
    check_heads(heads, kv_heads, dim);
    if (!partial_) {
      partial_ = device_memory(kPartialBytes + kPrefillCounters * 4, "attention scratch");
      check(cudaMemsetAsync(prefill_counters(), 0, kPrefillCounters * 4, stream_), "attention scratch");
    }
    return {.q = prepared_q_, .k_pages = args.k_pages.data, .v_pages = args.v_pages.data, .out = args.out.as<__nv_bfloat16>(), .positions = tables_.positions,
            .last_visible = args.last_visible.empty() ? nullptr : tables_.last_visible, .pool = pool_of(args.sequences), .partial = static_cast<float*>(partial_.get()),
            .partial_bytes = kPartialBytes, .rows = static_cast<int>(args.q.shape[0]), .heads = heads, .kv_heads = kv_heads, .dim = dim, .window = args.window,
            .e4m3 = cache_is_e4m3(args.k_pages), .one_row_tiles = size_.one_row_tiles, .long_tiles = size_.long_tiles};
  }

  static bool cache_is_e4m3(const Tensor& pages) {
    if (pages.dtype == DType::f32) raise(ErrorCode::unsupported, "--kv-cache-dtype float32 runs on the CPU only; use bfloat16 or fp8_e4m3");
    return pages.dtype == DType::e4m3;
  }

  static void check_heads(int heads, int kv_heads, int dim) {
    if (!attention_supports(heads, kv_heads, dim)) raise(ErrorCode::unsupported, "attention with {} heads, {} key/value heads of {} channels: no CUDA kernel; use --device cpu", heads, kv_heads, dim);
  }

  // x itself, or its values as NVFP4 would keep them with that global scale.
  Tensor rounded(const Tensor& x, float scale) {
    if (scale == 0.0f) return x;
    NB_ASSERT(x.dtype == DType::bf16 && x.cols() % kNvfp4Block == 0 && x.bytes() <= quantized_bytes_, "rows must be whole NVFP4 blocks");
    quantize_nvfp4_rows(x.as<__nv_bfloat16>(), scale, static_cast<__nv_bfloat16*>(quantized_.get()), static_cast<int>(x.rows()), static_cast<int>(x.cols()), stream_);
    return {quantized_.get(), DType::bf16, x.shape};
  }

  // A picture or sound on the device, until the next one. Steps that have any are not recorded.
  const void* media_input(const void* host, int64_t bytes) {
    if (media_bytes_ < bytes) {
      media_.reset();
      media_ = device_memory(bytes, "a picture (fewer soft tokens need less)");
      media_bytes_ = bytes;
    }
    copy_to_device(media_.get(), host, bytes);
    return media_.get();
  }

  void multiply(const LinearCall& call, const Tensor& x) {
    NB_ASSERT(x.dtype == DType::bf16, "the CUDA backend multiplies bf16 inputs");
    if (call.rows <= kNarrowRows) {
      linear_narrow(call, stream_);
    } else {
      linear_wide(call, input_map(x, wide_row_tile(call.targets[0].weight.format, call.rows)), stream_);
    }
  }

  // The map of an input for the tensor copy engine; rows past the tensor read as zeros.
  const CUtensorMap* input_map(const Tensor& x, int row_tile) {
    std::unique_ptr<CUtensorMap>& map = maps_[{x.data, x.rows(), x.cols(), row_tile}];
    if (!map) {
      map = std::make_unique<CUtensorMap>();
      // [K / 64][rows][64]: one copy brings two runs of 64 inputs.
      const auto k = static_cast<cuuint64_t>(x.cols()), rows = static_cast<cuuint64_t>(x.rows());
      const cuuint64_t sizes[] = {64, rows, (k + 63) / 64}, strides[] = {k * 2, 128};
      const cuuint32_t box[] = {64, static_cast<cuuint32_t>(row_tile), 2}, steps[] = {1, 1, 1};
      const CUresult status = encode_map_(map.get(), CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, x.data, sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                                          CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
      if (status != CUDA_SUCCESS) raise(ErrorCode::internal, "cuTensorMapEncodeTiled: error {}", static_cast<int>(status));
    }
    return map.get();
  }

  int* prefill_counters() { return reinterpret_cast<int*>(static_cast<std::byte*>(partial_.get()) + kPartialBytes); }

  // Partial sums of a linear layer stay apart until the op that reads them.
  void* slices_for(const void* out, int64_t bytes) {
    SliceMemory& memory = slice_memory_[out];
    if (memory.bytes < bytes) memory = {device_memory(bytes, "partial sums (lower them with --chunked-prefill-size)"), bytes};
    return memory.memory.get();
  }
  Partial partial(const Tensor& x) {
    const auto found = pending_.find(x.data);
    return found == pending_.end() ? Partial{x.as<float>()} : found->second;
  }
  float* added(const Tensor& x) {
    const auto found = pending_.find(x.data);
    if (found == pending_.end()) return x.as<float>();
    if (found->second.slices > 1) add_slices(found->second.data, found->second.slices, found->second.stride, x.count(), found->second.data, stream_);
    found->second.slices = 1;  // not again by the next that reads it
    return found->second.data;
  }

  // A device copy of what never changes, made when first seen.
  const void* constant(const Tensor& host) {
    DeviceMemory& memory = constants_[host.data];
    if (!memory) {
      memory = device_memory(host.bytes(), "weights");
      copy_to_device(memory.get(), host.data, host.bytes());
    }
    return memory.get();
  }
  const __nv_bfloat16* norm_weight(const Tensor& host) { return static_cast<const __nv_bfloat16*>(constant(host)); }

  // Through pinned memory, in halves that take turns.
  void copy_to_device(void* to, const void* from, int64_t bytes) {
    if (!staging_) {
      check(cudaHostAlloc(&staging_, kStagingBytes, cudaHostAllocDefault), "pinned memory");
      for (cudaEvent_t& event : staged_) check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate");
    }
    constexpr int64_t kHalf = kStagingBytes / 2;
    for (int64_t done = 0; done < bytes; done += kHalf) {
      const int64_t part = std::min(kHalf, bytes - done);
      auto* const half = static_cast<std::byte*>(staging_) + turn_ * kHalf;
      check(cudaEventSynchronize(staged_[turn_]), "upload");
      std::memcpy(half, static_cast<const std::byte*>(from) + done, static_cast<size_t>(part));
      check(cudaMemcpyAsync(static_cast<std::byte*>(to) + done, half, static_cast<size_t>(part), cudaMemcpyHostToDevice, stream_), "upload");
      check(cudaEventRecord(staged_[turn_], stream_), "upload");
      turn_ ^= 1;
    }
  }

  const PoolTables& pool_of(std::span<const PagedRows> sequences) const { return sequences.data() == plan_->full_rows.data() ? tables_.full : tables_.sliding; }

  CudaBackendOptions options_;
  cudaDeviceProp properties_{};
  cudaStream_t stream_ = nullptr;
  PFN_cuTensorMapEncodeTiled_v12000 encode_map_ = nullptr;

  std::vector<DeviceMemory> memory_;
  std::unordered_map<const void*, DeviceMemory> constants_;
  std::unordered_map<const void*, SliceMemory> slice_memory_;
  std::unordered_map<const void*, Partial> pending_;
  std::map<std::tuple<const void*, int64_t, int64_t, int>, std::unique_ptr<CUtensorMap>> maps_;
  std::unordered_map<int, DeviceMemory> argmax_scratch_;  // by vocabulary
  DeviceMemory raw_, partial_, quantized_, media_;
  int64_t raw_bytes_ = 0, quantized_bytes_ = 0, media_bytes_ = 0;
  void* staging_ = nullptr;
  cudaEvent_t staged_[2] = {};
  int turn_ = 0;

  // The step under way.
  const StepPlan* plan_ = nullptr;
  StepSize size_;
  StepTables tables_;
  std::unique_ptr<StepTableUpload> upload_;
  float* prepared_q_ = nullptr;
  std::byte* exchange_ = nullptr;  // pinned, for sampling
  WeightQuantizer quantizer_;
  DeviceMemory amax_;  // [amax_rows_] f32, of row_amax
  int64_t amax_rows_ = 0;
  DeviceMemory device_exchange_, candidate_scratch_;
  int64_t exchange_bytes_ = 0, candidate_scratch_bytes_ = 0;
  std::set<StepSize> seen_;
  std::map<StepSize, cudaGraphExec_t> graphs_;
};
}  // namespace

std::unique_ptr<Backend> make_cuda_backend(const CudaBackendOptions& options) { return std::make_unique<CudaBackend>(options); }
bool has_cuda_device(int device) {
  try {
    usable_device(device);
    return true;
  } catch (const Error&) {
    return false;
  }
}
}  // namespace nibble
