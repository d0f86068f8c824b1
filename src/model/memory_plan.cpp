#include "model/memory_plan.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/error.h"

namespace nibble {
namespace {
constexpr int64_t kHostCacheBytes = int64_t{2} << 30, kHostContexts = 8;
constexpr int64_t kDriverBytes = int64_t{2} << 30;  // context, records of steps, partial sums, gathered keys
constexpr int32_t kFewestPages = 4;
constexpr double kShare = 0.9;

int64_t pages_for(int64_t tokens, int64_t page_tokens) { return (tokens + page_tokens - 1) / page_tokens; }
double gib(int64_t bytes) { return static_cast<double>(bytes) / (1 << 30); }

MemoryPlan plan_host(const MemoryNeeds& n) {
  const int64_t page = n.full_page_bytes + n.sliding_page_bytes;
  int64_t pages = pages_for(n.max_total_tokens, n.page_tokens);
  if (n.max_total_tokens == 0) pages = std::min(pages_for(kHostContexts * n.context_length, n.page_tokens), std::max<int64_t>(kHostCacheBytes / std::max<int64_t>(page, 1), 64));
  const auto count = static_cast<int32_t>(std::max<int64_t>(pages, kFewestPages));
  return {count, count, fmt::format("KV cache {:.2f} GiB for {} tokens", gib(count * page), int64_t{count} * n.page_tokens)};
}
}  // namespace

MemoryPlan plan_memory(const MemoryNeeds& n) {
  if (n.fraction < 0 || n.fraction >= 1) raise(ErrorCode::invalid_argument, "--mem-fraction-static {}: wanted more than 0 and less than 1", n.fraction);
  if (n.device_bytes == 0) return plan_host(n);
  const int64_t share = static_cast<int64_t>(static_cast<double>(n.device_bytes) * (n.fraction > 0 ? n.fraction : kShare));
  const int64_t room = (n.fraction > 0 ? share : std::min(share, n.free_bytes - n.working_bytes)) - n.weight_bytes;
  const int64_t least = kFewestPages * (n.full_page_bytes + n.sliding_page_bytes);
  if (n.weight_bytes + n.working_bytes + least > n.free_bytes) {
    raise(ErrorCode::out_of_memory, "the weights take {:.2f} GiB and steps {:.2f} GiB, {:.2f} of {:.2f} GiB are free on the device; take a smaller checkpoint, lower --chunked-prefill-size, or use --device cpu",
          gib(n.weight_bytes), gib(n.working_bytes), gib(n.free_bytes), gib(n.device_bytes));
  }
  if (room < least) {
    raise(ErrorCode::out_of_memory, "--mem-fraction-static {}: the weights take {:.2f} of {:.2f} GiB; the smallest that works is {:.3f}", n.fraction, gib(n.weight_bytes), gib(n.device_bytes),
          static_cast<double>(n.weight_bytes + least) / static_cast<double>(n.device_bytes) + 0.0005);
  }
  // The most that can be of use.
  const int64_t windows = n.max_running * (pages_for(n.sliding_window, n.page_tokens) + 1) + pages_for(n.max_rows, n.page_tokens);
  const int64_t useful_sliding = n.sliding_page_bytes > 0 ? std::min(windows * 5 / 4, int64_t{n.max_running} * pages_for(n.context_length, n.page_tokens)) : kFewestPages;
  const int64_t useful_full = n.max_running * pages_for(n.context_length, n.page_tokens);
  const auto sliding_for = [&](int64_t full) { return std::clamp<int64_t>(full, kFewestPages, std::max<int64_t>(useful_sliding, kFewestPages)); };
  int64_t full = room / (n.full_page_bytes + n.sliding_page_bytes);
  if (full > useful_sliding) full = (room - sliding_for(full) * n.sliding_page_bytes) / std::max<int64_t>(n.full_page_bytes, 1);
  if (n.max_total_tokens > 0) {
    const int64_t wanted = std::max<int64_t>(pages_for(n.max_total_tokens, n.page_tokens), kFewestPages);
    if (wanted > full) {
      raise(ErrorCode::out_of_memory, "--max-total-tokens {}: the KV cache would take {:.2f} GiB, {:.2f} are left beside weights of {:.2f} on a device of {:.2f} GiB; {} tokens fit", n.max_total_tokens,
            gib(wanted * n.full_page_bytes + sliding_for(wanted) * n.sliding_page_bytes), gib(room), gib(n.weight_bytes), gib(n.device_bytes), full * n.page_tokens);
    }
    full = wanted;
  }
  full = std::clamp<int64_t>(full, kFewestPages, std::max<int64_t>(useful_full, kFewestPages));
  if (n.max_total_tokens > 0) full = std::max<int64_t>(pages_for(n.max_total_tokens, n.page_tokens), kFewestPages);
  const int64_t sliding = sliding_for(full), cache = full * n.full_page_bytes + sliding * n.sliding_page_bytes;
  return {static_cast<int32_t>(full), static_cast<int32_t>(sliding),
          fmt::format("{:.2f} GiB on the device, {:.2f} free: weights {:.2f}, steps of {} rows {:.2f}, KV cache {:.2f} ({} tokens on full layers, {} on sliding ones)", gib(n.device_bytes),
                      gib(n.free_bytes), gib(n.weight_bytes), n.max_rows, gib(n.working_bytes), gib(cache), full * n.page_tokens, sliding * n.page_tokens)};
}

int64_t device_weight_bytes(const ModelWeights& weights) {
  int64_t bytes = weights.head_is_tied ? weights.embed.bytes() : 0;
  for (const WeightGroup& group : weight_groups(weights)) bytes += group.bytes;
  return bytes;
}

int64_t device_working_bytes(const ModelConfig& config, const ModelWeights& weights, int32_t max_rows) {
  int64_t q_size = 0, kv_size = 0;
  for (const LayerConfig& layer : config.layers) {
    q_size = std::max(q_size, int64_t{config.num_attention_heads} * layer.head_dim);
    kv_size = std::max(kv_size, int64_t{layer.num_kv_heads} * layer.head_dim);
  }
  // f32: residual, sublayer, q, k, v, gate, up, up to four slices of a sublayer; bf16: normed, attended, gated.
  const int64_t row = int64_t{config.hidden_size} * (7 * 4 + 2 * 2) + q_size * 6 + kv_size * 8 + int64_t{config.intermediate_size} * 10;
  const int64_t logits = std::min<int64_t>(max_rows, 256) * config.vocab_size * 4;
  return max_rows * row + logits + weights.embed.bytes() + kDriverBytes;  // a weight is staged as it is stored; the embedding is the largest
}
}  // namespace nibble
