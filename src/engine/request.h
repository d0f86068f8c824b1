// A request as the engine sees it: token ids in, tokens out, one event at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/hash.h"
#include "engine/speculation.h"
#include "engine/thinking.h"
#include "model/soft_tokens.h"

namespace nibble {
class Grammar;

// How the next token is chosen; docs/decisions and sampler.h give the exact order of the steps.
struct SamplingParams {
  float temperature = 1.0f;  // < 1e-6: greedy
  float top_p = 1.0f;
  int32_t top_k = -1;        // -1: off
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;
  float frequency_penalty = 0.0f;
  float presence_penalty = 0.0f;
  std::vector<std::pair<int32_t, float>> logit_bias;
  uint64_t seed = 0;         // always set: the server draws one when the client does not
};

enum class FinishReason { none, stop_token, stop_string, length, abort, repetition };  // repetition: a loop (see RepetitionGuard)

struct TokenLogprob {
  int32_t id = 0;
  float logprob = 0.0f;
};

// One output token of one choice, or its end.
struct TokenEvent {
  int32_t choice = 0;
  int32_t id = -1;                      // -1: no token in this event (only an end)
  float logprob = 0.0f;                 // ln p after temperature, before the filters; 0 unless asked for
  std::vector<TokenLogprob> top;        // best first, as many as asked for
  FinishReason finish = FinishReason::none;  // set on the last event of the choice; the token of a stop_token end is included (id)
  std::optional<Error> error;           // why, when finish is abort
  int32_t cached_tokens = 0;            // prompt tokens that came from the prefix cache (on a choice's first event)
  float queue_seconds = 0;              // from submission to the first step (on a choice's first event)
  DraftRound round;                     // of the round that this token ends, when it drafted
};

struct Request {
  std::string id;                       // unique among the live ones
  std::vector<int32_t> prompt;          // token ids, at least one
  std::vector<SoftTokens> media;        // ascending, disjoint; their positions hold the placeholder's id in `prompt`
  Hash128 cache_salt;                   // requests share cached prefixes only when equal
  SamplingParams sampling;
  std::vector<int32_t> stop_ids;        // end tokens: generation_config's, config's and the request's
  bool ignore_eos = false;              // stop_ids end nothing
  int32_t min_tokens = 0;               // stop_ids are masked until so many tokens exist
  int32_t max_tokens = 0;               // > 0; the caller has fitted it to the context
  ThinkingBudget thinking;
  bool stops_at_loops = false;          // a reply that repeats itself without end finishes with FinishReason::repetition
  int32_t num_choices = 1;              // independent samples of one prompt, prefilled once
  int32_t top_logprobs = -1;            // -1: no logprobs; 0: of the chosen token only
  bool prompt_logprobs = false;         // report the prompt's logprobs before the first token
  int32_t priority = 0;
  std::shared_ptr<const Grammar> grammar;  // what the reply may be; null: anything. It ends with one of grammar_stop_ids, where the grammar may end
  std::vector<int32_t> grammar_stop_ids;   // of stop_ids those that are no text; at least one where there is a grammar

  // Called on the engine thread, in order; must be quick and must not call into the engine, except Engine::cancel.
  // For prompt_logprobs the argument of on_prompt_logprobs has prompt.size() - 1 entries.
  std::function<void(TokenEvent&&)> on_token;
  std::function<void(std::vector<TokenEvent>&&)> on_prompt_logprobs;
};
}  // namespace nibble
