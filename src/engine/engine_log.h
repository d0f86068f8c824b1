// The engine's steady log lines, in SGLang's field names because tools parse them: one per prefill, one per so many steps of decoding.
#pragma once

#include <span>

#include "base/clock.h"
#include "engine/engine.h"
#include "engine/scheduler.h"

namespace nibble {
class EngineLog {
 public:
  EngineLog(int32_t decode_interval, int32_t page_tokens) : decode_interval_(decode_interval), page_tokens_(page_tokens) {}

  void count_token() { ++tokens_; }
  void count_round(DraftRound round) { speculation_.add(round); }
  // Of a step that is done, before its sequences move on. Sets counts.generation_throughput when a decode line is due. drafts: of a round at present; -1: no speculation.
  void step(std::span<const PlannedRows> plan, EngineStats& counts, int32_t drafts);

 private:
  int32_t decode_interval_, page_tokens_;
  double since_ = monotonic_seconds();
  int64_t tokens_ = 0, steps_ = 0;
  DraftCounts speculation_;
};
}  // namespace nibble
