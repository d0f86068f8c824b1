// A limit on how much of a reply is thought: when it is used up, the thought is closed by a token that is not sampled, and no further one is opened.
#pragma once

#include <cstdint>

namespace nibble {
struct ThinkingBudget {
  int32_t max_tokens = -1;   // inside thoughts, opening marker included, over the whole reply; -1: no limit
  int32_t open_id = -1;      // <|channel>
  int32_t close_id = -1;     // <channel|>
  bool starts_open = false;  // the prompt left a thought open

  bool is_on() const { return max_tokens >= 0 && open_id >= 0 && close_id >= 0; }
};

// Where a choice stands. A value: it can be run ahead over drafts and thrown away.
struct ThoughtState {
  bool open = false;
  int32_t tokens = 0;

  static ThoughtState at_start(const ThinkingBudget& budget) { return {.open = budget.starts_open, .tokens = 0}; }

  void push(const ThinkingBudget& budget, int32_t id) {
    if (id == budget.open_id) open = true;
    tokens += open;
    if (id == budget.close_id) open = false;
  }
  bool is_used_up(const ThinkingBudget& budget) const { return budget.is_on() && tokens >= budget.max_tokens; }
  // The next token must be close_id.
  bool must_close(const ThinkingBudget& budget) const { return open && is_used_up(budget); }
};
}  // namespace nibble
