#include "app/bench_attention.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <span>
#include <vector>

#include "app/bench_timer.h"
#include "base/rng.h"
#include "kernels/backend.h"

namespace nibble {
namespace {
struct Layer {
  const char* name;
  int32_t heads, kv_heads, dim, window;
};
// Sliding and full layers of the 12B model.
constexpr Layer kLayers[] = {{"sliding 16/8 x 256", 16, 8, 256, 1024}, {"full 16/1 x 512", 16, 1, 512, 0}};

// Finite values in a memory of so many bytes.
std::vector<uint16_t> random_pages(DType dtype, int64_t bytes) {
  std::vector<uint16_t> values(static_cast<size_t>(bytes / 2));
  constexpr size_t kPeriod = size_t{1} << 20;
  for (size_t i = 0; i < std::min(kPeriod, values.size()); i += 4) {
    const PhiloxCounter r = philox4x32({static_cast<uint32_t>(i), 0, 0, 0}, 3);
    for (size_t j = i; j < std::min(i + 4, values.size()); ++j) values[j] = static_cast<uint16_t>(dtype == DType::e4m3 ? r[j - i] & 0xbfbf : 0x3e00 | (r[j - i] & 0x817f));
  }
  for (size_t i = kPeriod; i < values.size(); ++i) values[i] = values[i - kPeriod];
  return values;
}

AttentionTime time_layer(const Layer& layer, DType dtype, int32_t rows, int32_t first_position, double seconds) {
  const std::unique_ptr<Backend> backend = make_cuda_backend({.max_rows = std::max(rows, 16)});
  const int32_t num_pages = (first_position + rows + kPageTokens - 1) / kPageTokens, last = first_position + rows - 1;
  AttentionTime time{.op = fmt::format("{} at {}", layer.name, first_position), .format = dtype == DType::e4m3 ? "e4m3" : "bf16", .rows = rows};
  const int64_t lowest = layer.window > 0 ? std::max(0, first_position - layer.window + 1) : 0;
  time.bytes = (last + 1 - lowest) * layer.kv_heads * layer.dim * size_of(dtype) * 2;
  for (int64_t position = first_position; position <= last; ++position) {
    const int64_t keys = layer.window > 0 ? std::min<int64_t>(position + 1, layer.window) : position + 1;
    time.flops += 4.0 * static_cast<double>(keys * layer.heads * layer.dim);
  }

  // So many layers that none finds its keys in a cache, as in a model.
  const int64_t page_bytes = int64_t{num_pages} * kPageTokens * layer.kv_heads * layer.dim * size_of(dtype);
  const auto copies = static_cast<size_t>(std::clamp<int64_t>((int64_t{256} << 20) / (2 * page_bytes), 2, 32));
  const std::vector<uint16_t> values = random_pages(dtype, page_bytes);
  std::vector<std::pair<Tensor, Tensor>> pages;
  for (size_t i = 0; i < copies; ++i) {
    pages.emplace_back(backend->allocate(dtype, {num_pages, layer.kv_heads, layer.dim, kPageTokens}, "bench"), backend->allocate(dtype, {num_pages, layer.kv_heads, kPageTokens, layer.dim}, "bench"));
    backend->upload(values.data(), pages.back().first);
    backend->upload(values.data(), pages.back().second);
  }
  std::vector<int32_t> table(static_cast<size_t>(num_pages));
  std::iota(table.begin(), table.end(), 0);
  const std::vector<PagedRows> sequences{{0, rows, first_position, table}};
  const std::vector<int32_t> ids(static_cast<size_t>(rows), 0);
  const std::vector<float> frequencies(16, 0.01f), q(static_cast<size_t>(rows) * layer.heads * layer.dim, 0.5f);
  std::vector<uint16_t> ones(static_cast<size_t>(layer.dim), 0x3f80);
  const Tensor norm{ones.data(), DType::bf16, {layer.dim}};
  const int64_t most = std::max(rows, 16), width = int64_t{layer.heads} * layer.dim, kv_width = int64_t{layer.kv_heads} * layer.dim;
  const Tensor tq = backend->allocate(DType::f32, {most, width}, "bench"), tk = backend->allocate(DType::f32, {most, kv_width}, "bench"), tv = backend->allocate(DType::f32, {most, kv_width}, "bench");
  const Tensor cos = backend->allocate(DType::f32, {most, 16}, "bench"), sin = backend->allocate(DType::f32, {most, 16}, "bench"), out = backend->allocate(DType::bf16, {most, width}, "bench");
  backend->upload(q.data(), {tq.data, DType::f32, {rows, width}});
  const std::span<const PagedRows> all = sequences, none;
  const bool full = layer.window == 0;
  const StepPlan plan{.ids = ids, .full_rows = full ? all : none, .sliding_rows = full ? none : all, .logit_rows = {}, .full_group = layer.heads / layer.kv_heads,
                      .sliding_group = layer.heads / layer.kv_heads, .sliding_window = layer.window};
  const int calls = rows > 256 ? 8 : 32;
  const Tensor first_value{out.data, DType::bf16, {1}};
  time.seconds = median_seconds(seconds, [&] {
    backend->run_step(plan, [&](int64_t padded, int64_t) {
      const Tensor sq{tq.data, DType::f32, {padded, layer.heads, layer.dim}}, sk{tk.data, DType::f32, {padded, layer.kv_heads, layer.dim}}, sv{tv.data, DType::f32, {padded, layer.kv_heads, layer.dim}};
      const RotaryTable rotary{{cos.data, DType::f32, {padded, 16}}, {sin.data, DType::f32, {padded, 16}}};
      backend->rotary({.frequencies = frequencies, .sequences = sequences, .table = rotary});
      backend->qkv_prepare({.q = sq, .k = sk, .v = sv, .q_norm = norm, .k_norm = norm, .rotary = rotary, .k_pages = pages[0].first, .v_pages = pages[0].second, .sequences = sequences});
      for (int c = 0; c < calls; ++c) {
        const auto& [k, v] = pages[static_cast<size_t>(c) % copies];
        backend->attention({.q = sq, .k_pages = k, .v_pages = v, .out = {out.data, DType::bf16, {padded, width}}, .sequences = sequences, .window = layer.window});
      }
    });
    uint16_t sink = 0;
    backend->download(first_value, &sink);
  }) / calls;
  return time;
}
}  // namespace

void bench_attention(double seconds, const std::function<void(const AttentionTime&)>& report) {
  struct Rows {
    int32_t rows, first_position;
  };
  for (const DType dtype : {DType::e4m3, DType::bf16}) {
    for (const Layer& layer : kLayers) {
      for (const auto& [rows, first] : {Rows{1, 511}, Rows{1, 8191}, Rows{1, 131071}, Rows{6, 8186}, Rows{128, 0}, Rows{2048, 0}, Rows{2048, 6144}}) report(time_layer(layer, dtype, rows, first, seconds));
    }
  }
}
}  // namespace nibble
