#include "engine/engine_log.h"

#include <algorithm>

#include "base/log.h"

namespace nibble {
namespace {
double share(int32_t used, int32_t total) { return total > 0 ? static_cast<double>(used) / total : 0.0; }
}  // namespace

void EngineLog::step(std::span<const PlannedRows> plan, EngineStats& counts, int32_t drafts) {
  int32_t sequences = 0, tokens = 0, cached = 0;
  for (const PlannedRows& p : plan) {
    if (p.sequence->remaining() == 1 && p.sequence->num_output() > 0) continue;
    ++sequences;
    tokens += p.num_rows;
    if (p.sequence->computed == p.sequence->cached_tokens) cached += p.sequence->cached_tokens;
  }
  const double now = monotonic_seconds();
  const double full_usage = share(counts.full_pages_used, counts.full_pages_total), sliding_usage = share(counts.sliding_pages_used, counts.sliding_pages_total);
  if (sequences > 0) {
    log_info("Prefill batch, #new-seq: {}, #new-token: {}, #cached-token: {}, full token usage: {:.2f}, swa token usage: {:.2f}, #running-req: {}, #queue-req: {}, "
             "cuda graph: False, input throughput (token/s): {:.2f}",
             sequences, tokens, cached, full_usage, sliding_usage, counts.running, counts.queued, tokens / std::max(1e-6, now - counts.last_progress_seconds));
  }
  if (decode_interval_ <= 0 || ++steps_ < decode_interval_) return;
  counts.generation_throughput = static_cast<double>(tokens_) / std::max(1e-6, now - since_);
  log_info("Decode batch, #running-req: {}, #full token: {}, full token usage: {:.2f}, #swa token: {}, swa token usage: {:.2f}, cuda graph: False, "
           "gen throughput (token/s): {:.2f}, #queue-req: {}",
           counts.running, counts.full_pages_used * page_tokens_, full_usage, counts.sliding_pages_used * page_tokens_, sliding_usage, counts.generation_throughput, counts.queued);
  if (drafts >= 0) {
    log_info("Speculation, accept len: {:.2f}, accept rate: {:.2f}, rounds: {}, drafts per round: {}", speculation_.acceptance_length(), speculation_.acceptance_rate(), speculation_.rounds, drafts);
    speculation_ = {};
  }
  steps_ = 0;
  tokens_ = 0;
  since_ = now;
}
}  // namespace nibble
