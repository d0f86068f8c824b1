// How many tokens to guess ahead: counts of what came of the guesses, and the choice of the next round's number by measured time.
//
// A round of k drafts gives 1 + (drafts accepted) tokens for the time of k draft steps and of a forward step over k + 1 rows a sequence. The controller keeps
// the acceptance of each position (half-life kHalfLife rounds; half of the weight is each request's own, as far as it has been seen), the time of forward steps by rows and of draft steps
// by sequences, and takes the k of most tokens a second. Sizes never measured count as cheap as they can be, so that they get measured. It begins with a few drafts
// and looks soon; when it does not draft at all it tries one draft now and then, less often each time that this does not pay.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <span>
#include <vector>

namespace nibble {
inline constexpr int32_t kMaxDrafts = 15;

struct SpeculationOptions {
  int32_t max_drafts = 0;               // per sequence and round; 0: off
  bool adaptive = true;                 // false: always max_drafts
  double forced_acceptance_length = 0;  // > 0: SYNTHETIC. Takes so many tokens a round on average, right or wrong: for timing alone
};

struct DraftRound {
  int16_t drafted = 0, accepted = 0;
};

// Rounds that drafted something. Ratios are of sums.
struct DraftCounts {
  int64_t rounds = 0, drafted = 0, accepted = 0, plain_steps = 0;  // plain_steps: rows that went without a draft while speculation was on
  std::array<int64_t, kMaxDrafts + 1> histogram{};                 // rounds by accepted drafts
  std::array<int64_t, kMaxDrafts> offered{}, reached{};            // rounds with more than i drafts; of these, those that accepted draft i

  void add(DraftRound round);
  double acceptance_length() const { return rounds > 0 ? 1.0 + static_cast<double>(accepted) / static_cast<double>(rounds) : 0.0; }
  double acceptance_rate() const { return drafted > 0 ? static_cast<double>(accepted) / static_cast<double>(drafted) : 0.0; }
};

// Time by size, for sizes on a logarithmic scale.
class TimeTable {
 public:
  void observe(double size, double seconds);
  // The measured time; between measured sizes on the line; beyond them no more than they allow. 0 without any.
  double predict(double size) const;

 private:
  struct Entry {
    double seconds = 0;
    int32_t samples = 0;
  };
  std::map<int32_t, Entry> entries_;
};

// How often a sequence's drafts were right, one after the other.
struct OwnRate {
  double rate = 0;
  double outcomes = 0;
};

class DraftController {
 public:
  explicit DraftController(const SpeculationOptions& options);

  // Notes a round's outcome, also in the sequence's own rate.
  void observe(DraftRound round, OwnRate& own);
  void observe_step(int32_t rows, double seconds) { steps_.observe(rows, seconds); }                                       // a step of decode rows alone
  void observe_drafting(int32_t sequences, int32_t drafts, double seconds) { drafting_.observe(sequences, seconds / drafts); }
  // Drafts per sequence for the next round of sequences with these rates.
  int32_t choose(std::span<const OwnRate> sequences);

  int32_t current() const { return drafts_; }
  double acceptance(int32_t position) const;  // that drafts 0..position are all accepted

 private:
  double tokens(std::span<const OwnRate> sequences, int32_t drafts) const;
  double seconds(int32_t sequences, int32_t drafts) const;

  static constexpr double kHalfLife = 200, kOwnOutcomes = 20;
  static constexpr double kFirstRate = 0.78;    // expected before anything is seen
  static constexpr int32_t kPatience = 8;       // rounds between two looks at the choice
  static constexpr int32_t kFirstDrafts = 3, kFirstOutcomes = 6;  // of a new controller: until so many sequences' rounds
  static constexpr double kWorthwhile = 1.03;
  static constexpr int32_t kFirstProbe = 128, kLastProbe = 1024, kProbeRounds = 2;

  SpeculationOptions options_;
  int32_t drafts_;
  int32_t rounds_here_ = 0, last_sequences_ = 0;
  bool has_looked_ = false;
  int32_t probe_after_ = kFirstProbe, since_probe_ = 0, probing_ = 0;
  std::array<double, kMaxDrafts> tried_{}, hit_{};  // decayed; draft i was tried when those before it were accepted
  TimeTable steps_, drafting_;
};
}  // namespace nibble
