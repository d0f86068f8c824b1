#include "engine/speculation.h"

#include <algorithm>
#include <cmath>

#include "base/assert.h"

namespace nibble {
void DraftCounts::add(DraftRound round) {
  ++rounds;
  drafted += round.drafted;
  accepted += round.accepted;
  ++histogram[static_cast<size_t>(round.accepted)];
  for (size_t i = 0; i < static_cast<size_t>(round.drafted); ++i) {
    ++offered[i];
    reached[i] += static_cast<int64_t>(i) < round.accepted;
  }
}

namespace {
// Four sizes to an octave: apart up to 8, then within 19 %.
int32_t bucket_of(double size) { return static_cast<int32_t>(std::lround(4 * std::log2(size))); }
double size_of_bucket(int32_t bucket) { return std::exp2(bucket / 4.0); }
}  // namespace

void TimeTable::observe(double size, double seconds) {
  Entry& entry = entries_[bucket_of(size)];
  ++entry.samples;
  if (entry.samples <= 3) {
    // First steps of a size may allocate or fill caches.
    entry.seconds = entry.samples == 1 ? seconds : std::min(entry.seconds, seconds);
  } else {
    entry.seconds += (seconds > 2 * entry.seconds ? 0.02 : 0.15) * (seconds - entry.seconds);
  }
}

double TimeTable::predict(double size) const {
  if (entries_.empty()) return 0;
  const auto above = entries_.lower_bound(bucket_of(size));
  if (above != entries_.end() && above->first == bucket_of(size)) return above->second.seconds;
  if (above == entries_.end()) return std::prev(above)->second.seconds;
  const double high = size_of_bucket(above->first);
  if (above == entries_.begin()) return above->second.seconds * size / high;
  const auto below = std::prev(above);
  const double low = size_of_bucket(below->first), part = std::clamp((size - low) / (high - low), 0.0, 1.0);
  return below->second.seconds + part * (above->second.seconds - below->second.seconds);
}

DraftController::DraftController(const SpeculationOptions& options) : options_(options), drafts_(options.adaptive ? std::min(options.max_drafts, kFirstDrafts) : options.max_drafts) {
  NB_ASSERT(options.max_drafts >= 0 && options.max_drafts <= kMaxDrafts, "at most kMaxDrafts drafts");
}

void DraftController::observe(DraftRound round, OwnRate& own) {
  const double keep = std::exp2(-1.0 / kHalfLife);
  for (size_t i = 0; i < tried_.size(); ++i) {
    tried_[i] *= keep;
    hit_[i] *= keep;
  }
  for (int32_t i = 0; i < round.drafted && i <= round.accepted; ++i) {
    const bool hit = i < round.accepted;
    tried_[static_cast<size_t>(i)] += 1;
    hit_[static_cast<size_t>(i)] += hit;
    own.outcomes = std::min(own.outcomes + 1, kOwnOutcomes);
    own.rate += ((hit ? 1.0 : 0.0) - own.rate) / own.outcomes;  // a mean at first, then one that forgets
  }
}

double DraftController::acceptance(int32_t position) const {
  // Little known of a position: take it for like the one before.
  constexpr double kPrior = 4;
  double rate = kFirstRate, all = 1;
  for (size_t i = 0; i <= static_cast<size_t>(position); ++i) {
    rate = (hit_[i] + kPrior * rate) / (tried_[i] + kPrior);
    all *= rate;
  }
  return all;
}

double DraftController::tokens(std::span<const OwnRate> sequences, int32_t drafts) const {
  double sum = static_cast<double>(sequences.size());
  for (int32_t j = 0; j < drafts; ++j) {
    const double all = acceptance(j);
    for (const OwnRate& own : sequences) {
      const double weight = 0.5 * own.outcomes / kOwnOutcomes;
      sum += (1 - weight) * all + weight * std::pow(own.rate, j + 1);
    }
  }
  return sum;
}

double DraftController::seconds(int32_t sequences, int32_t drafts) const {
  return steps_.predict(sequences * (drafts + 1.0)) + drafts * drafting_.predict(sequences);
}

int32_t DraftController::choose(std::span<const OwnRate> own) {
  if (!options_.adaptive || own.empty()) return drafts_;
  const auto sequences = static_cast<int32_t>(own.size());
  ++rounds_here_;
  const bool probe_over = probing_ > 0 && --probing_ == 0;
  if (drafts_ == 0 && ++since_probe_ >= probe_after_) {
    since_probe_ = rounds_here_ = 0;
    probing_ = kProbeRounds;
    return drafts_ = 1;
  }
  const bool moved = has_looked_ && bucket_of(sequences) != bucket_of(std::max(last_sequences_, 1));
  if (!probe_over && !moved && rounds_here_ < (has_looked_ ? kPatience : std::max(kFirstOutcomes / sequences, 1))) return drafts_;
  if (probing_ > 0) return drafts_;
  last_sequences_ = sequences;
  has_looked_ = true;
  rounds_here_ = 0;
  const auto speed = [&](int32_t drafts) {
    const double time = seconds(sequences, drafts);
    return time > 0 ? tokens(own, drafts) / time : 0;
  };
  // After a probe the way back to no drafts is free.
  const double now = speed(probe_over ? 0 : drafts_);
  int32_t best = probe_over ? 0 : drafts_;
  double best_speed = now * kWorthwhile;
  for (int32_t drafts = 0; drafts <= options_.max_drafts; ++drafts) {
    const double s = speed(drafts);
    if (s <= best_speed) continue;
    best = drafts;
    best_speed = s;
  }
  if (probe_over) probe_after_ = best == 0 ? std::min(2 * probe_after_, kLastProbe) : kFirstProbe;
  if (best == 0 && drafts_ > 0) since_probe_ = 0;
  return drafts_ = best;
}
}  // namespace nibble
