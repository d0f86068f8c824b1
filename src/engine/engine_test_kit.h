// For tests of the engine: a model that notices wrong pages, and a collector of replies.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <thread>

#include "base/rng.h"
#include "engine/engine.h"
#include "kernels/attention.h"
#include "model/step.h"

namespace nibble {
// A model whose logits are a hash of what its pages hold: a wrong page, a page freed too early or a stale one gives another token.
class PageHashModel final : public ForwardModel {
 public:
  PageHashModel(int32_t full_pages, int32_t sliding_pages, int32_t window, int32_t max_rows = 64)
      : geometry_{.page_tokens = kPageTokens, .num_full_pages = full_pages, .num_sliding_pages = sliding_pages, .sliding_window = window, .full_page_bytes = 1, .sliding_page_bytes = 1},
        max_rows_(max_rows), full_(static_cast<size_t>(full_pages * kPageTokens), {-1, -1}), sliding_(static_cast<size_t>(sliding_pages * kPageTokens), {-1, -1}) {}

  int32_t vocab_size() const override { return 97; }
  const KvGeometry& kv_geometry() const override { return geometry_; }
  int32_t max_rows() const override { return max_rows_; }

  void forward(const Step& step, float* logits) override {
    EXPECT_LE(step.ids.size(), static_cast<size_t>(max_rows_));
    // Whatever was left in a page by someone else must not matter: write all rows first, as the real model does per layer.
    for (const SequenceSlice& s : step.sequences) {
      for (int32_t i = 0; i < s.num_rows; ++i) {
        const int32_t position = s.first_position + i;
        const Slot slot{position, step.ids[static_cast<size_t>(s.first_row + i)]};
        at(full_, s.full_pages, position) = slot;
        at(sliding_, s.sliding_pages, position) = slot;
      }
    }
    size_t next = 0;
    for (const SequenceSlice& s : step.sequences) {
      for (int32_t i = 0; i < s.num_rows; ++i) {
        if (next == step.logit_rows.size() || step.logit_rows[next] != s.first_row + i) continue;
        uint64_t hash = 1;
        const int32_t position = s.first_position + i;
        for (int32_t p = 0; p <= position; ++p) hash = mix(hash, at(full_, s.full_pages, p), p);
        for (int32_t p = std::max(0, position - geometry_.sliding_window + 1); p <= position; ++p) hash = mix(hash, at(sliding_, s.sliding_pages, p), p);
        for (int32_t id = 0; id < vocab_size(); ++id) logits[next * 97 + static_cast<size_t>(id)] = 4 * uniform_float(philox4x32({static_cast<uint32_t>(id), 0, 0, 0}, hash)[0]);
        ++next;
      }
    }
    EXPECT_EQ(next, step.logit_rows.size());
  }

  // The tokens of a sequence as its pages hold them; all that a draft's query can see must be there.
  std::vector<int32_t> history(const DraftRow& row) {
    std::vector<int32_t> ids;
    const auto look = [&](std::vector<Slot>& pool, std::span<const int32_t> pages, int32_t position) {
      const Slot slot = at(pool, pages, position);
      EXPECT_EQ(slot.position, position) << "a draft reads a page that holds another position";
      return slot.id;
    };
    for (int32_t p = 0; p < row.num_computed; ++p) ids.push_back(look(full_, row.full_pages, p));
    for (int32_t p = std::max(0, row.num_computed - geometry_.sliding_window); p < row.num_computed; ++p) {
      EXPECT_EQ(look(sliding_, row.sliding_pages, p), ids[static_cast<size_t>(p)]);
    }
    ids.push_back(row.token);
    return ids;
  }

 private:
  struct Slot {
    int32_t position, id;
  };
  static uint64_t mix(uint64_t hash, const Slot& slot, int32_t wanted) {
    EXPECT_EQ(slot.position, wanted) << "a page holds another position than the table says";
    return (hash ^ static_cast<uint64_t>(slot.id)) * 0x9E3779B97F4A7C15ull + static_cast<uint64_t>(slot.position);
  }
  static Slot& at(std::vector<Slot>& pool, std::span<const int32_t> pages, int32_t position) {
    const int32_t page = pages[static_cast<size_t>(position / kPageTokens)];
    NB_ASSERT(page >= 0, "a visible page was let go");
    return pool[static_cast<size_t>(page * kPageTokens + position % kPageTokens)];
  }
  KvGeometry geometry_;
  int32_t max_rows_;
  std::vector<Slot> full_, sliding_;
};

// Knows how sequences go on, and is wrong where a hash says so: one draft in `wrong_one_in`.
class KnowingDrafter final : public DraftModel {
 public:
  KnowingDrafter(PageHashModel& model, uint32_t wrong_one_in) : model_(model), wrong_one_in_(wrong_one_in) {}
  void learn(std::vector<int32_t> whole) { known_.push_back(std::move(whole)); }

  int32_t max_drafts() const override { return 7; }
  void draft(std::span<const DraftRow> rows, int32_t num_drafts, int32_t* ids) override {
    for (size_t r = 0; r < rows.size(); ++r) {
      const std::vector<int32_t> history = model_.history(rows[r]);
      const auto found = std::find_if(known_.begin(), known_.end(), [&](const std::vector<int32_t>& whole) {
        return whole.size() >= history.size() && std::equal(history.begin(), history.end(), whole.begin());
      });
      for (int32_t j = 0; j < num_drafts; ++j) {
        const size_t position = history.size() + static_cast<size_t>(j);
        const bool wrong = philox4x32({static_cast<uint32_t>(position), static_cast<uint32_t>(history[0]), 0, 0}, 5)[0] % wrong_one_in_ == 0;
        const int32_t id = found != known_.end() && position < found->size() ? (*found)[position] : 0;
        ids[r * static_cast<size_t>(num_drafts) + static_cast<size_t>(j)] = (id + wrong) % 97;
      }
    }
  }

 private:
  PageHashModel& model_;
  uint32_t wrong_one_in_;
  std::vector<std::vector<int32_t>> known_;
};

struct Reply {
  std::vector<int32_t> ids;
  std::vector<float> logprobs;
  FinishReason finish = FinishReason::none;
  bool operator==(const Reply&) const = default;
};

// Collects the replies of requests by (id, choice). A request holds what it writes to, so that a test that gives up may leave while the engine still calls.
class Collector {
 public:
  std::unique_ptr<Request> request(const std::string& id, std::vector<int32_t> prompt, int32_t max_tokens, uint64_t seed) {
    auto r = std::make_unique<Request>();
    r->id = id;
    r->prompt = std::move(prompt);
    r->max_tokens = max_tokens;
    r->sampling.seed = seed;
    r->top_logprobs = 0;
    r->on_token = [seen = seen_, id](TokenEvent&& event) {
      const std::lock_guard lock(seen->mutex);
      ++seen->events;
      Reply& reply = seen->replies[{id, event.choice}];
      if (event.id >= 0) {
        reply.ids.push_back(event.id);
        reply.logprobs.push_back(event.logprob);
      }
      if (event.round.drafted > 0) seen->rounds[{id, event.choice}].push_back(event.round);
      if (event.finish != FinishReason::none) {
        reply.finish = event.finish;
        ++seen->finished;
        seen->changed.notify_all();
      }
    };
    return r;
  }
  // Waits while something comes: with sanitizers on a busy machine a test takes minutes, a hanging one ends after two without a token.
  bool wait_for(int count) {
    std::unique_lock lock(seen_->mutex);
    for (int64_t events = -1; seen_->finished < count && events != seen_->events;) {
      events = seen_->events;
      seen_->changed.wait_for(lock, std::chrono::seconds(120), [&] { return seen_->finished >= count; });
    }
    return seen_->finished >= count;
  }
  std::vector<DraftRound> rounds(const std::string& id) {
    const std::lock_guard lock(seen_->mutex);
    return seen_->rounds[{id, 0}];
  }
  Reply reply(const std::string& id, int32_t choice = 0) {
    const std::lock_guard lock(seen_->mutex);
    return seen_->replies[{id, choice}];
  }

 private:
  struct Seen {
    std::mutex mutex;
    std::condition_variable changed;
    std::map<std::pair<std::string, int32_t>, Reply> replies;
    std::map<std::pair<std::string, int32_t>, std::vector<DraftRound>> rounds;
    int64_t events = 0;
    int finished = 0;
  };
  std::shared_ptr<Seen> seen_ = std::make_shared<Seen>();
};

inline std::vector<int32_t> prompt_of(uint32_t seed, int32_t length, int32_t shared = 0) {
  std::vector<int32_t> ids;
  for (int32_t i = 0; i < length; ++i) ids.push_back(static_cast<int32_t>(philox4x32({static_cast<uint32_t>(i), i < shared ? 0 : seed, 0, 0}, 9)[0] % 90));
  return ids;
}

inline Reply alone(ForwardModel& model, const std::vector<int32_t>& prompt, int32_t max_tokens, uint64_t seed, EngineOptions options = {}) {
  Collector collector;
  Engine engine(model, options);
  EXPECT_TRUE(engine.submit(collector.request("r", prompt, max_tokens, seed)).has_value());
  EXPECT_TRUE(collector.wait_for(1));
  return collector.reply("r");
}

inline void expect_no_leak(Engine& engine) {
  for (int i = 0; i < 200 && !engine.flush_cache(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  for (int i = 0; i < 200 && engine.stats().full_pages_used > 0; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  const EngineStats stats = engine.stats();
  EXPECT_EQ(stats.full_pages_used, 0);
  EXPECT_EQ(stats.sliding_pages_used, 0);
  EXPECT_EQ(stats.running, 0);
}
}  // namespace nibble
