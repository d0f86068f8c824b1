#include "engine/grammar.h"

#include <xgrammar/xgrammar.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <condition_variable>
#include <list>
#include <mutex>
#include <optional>
#include <thread>
#include <unordered_map>

#include "base/assert.h"
#include "base/clock.h"
#include "base/log.h"

namespace nibble {
struct Grammar::Impl {
  xgrammar::CompiledGrammar compiled;
  double max_token_seconds = 0;
};

Grammar::Grammar(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Grammar::~Grammar() = default;
int64_t Grammar::bytes() const { return static_cast<int64_t>(impl_->compiled.MemorySizeBytes()); }

struct GrammarMatcher::Impl {
  std::shared_ptr<const Grammar> grammar;
  xgrammar::GrammarMatcher matcher;
  std::vector<uint32_t> mask;  // of the tokenizer's ids
  double slowest_seconds = 0, all_seconds = 0;
  int64_t num_calls = 0;

  template <typename Call>
  auto timed(const Call& call) {
    const double began = monotonic_seconds();
    const auto result = call();
    const double seconds = monotonic_seconds() - began;
    slowest_seconds = std::max(slowest_seconds, seconds);
    all_seconds += seconds;
    ++num_calls;
    return result;
  }
};

GrammarMatcher::GrammarMatcher(std::shared_ptr<const Grammar> grammar, std::span<const int32_t> stop_ids) {
  xgrammar::GrammarMatcher matcher(grammar->impl().compiled, std::vector<int>(stop_ids.begin(), stop_ids.end()));
  impl_ = std::make_unique<Impl>(Impl{std::move(grammar), std::move(matcher), {}});
  impl_->mask.resize(static_cast<size_t>(xgrammar::GetBitmaskSize(impl_->grammar->impl().compiled.GetTokenizerInfo().GetVocabSize())));
}
GrammarMatcher::~GrammarMatcher() = default;

bool GrammarMatcher::accept(int32_t id) {
  return !ended() && impl_->timed([&] { return impl_->matcher.AcceptToken(id); });
}
void GrammarMatcher::rollback(int32_t num_tokens) {
  if (num_tokens > 0) impl_->matcher.Rollback(num_tokens);
}
bool GrammarMatcher::ended() const { return impl_->matcher.IsTerminated(); }
bool GrammarMatcher::is_too_slow() const {
  constexpr double kHoldsUp = 0.05;
  const double most = impl_->grammar->impl().max_token_seconds;
  return impl_->slowest_seconds > 2 * most || (impl_->all_seconds > 20 * most && impl_->all_seconds > kHoldsUp * static_cast<double>(impl_->num_calls));
}

void GrammarMatcher::allowed(std::span<uint32_t> bits) {
  NB_ASSERT(!ended(), "nothing is allowed after the end");
  std::vector<uint32_t>& mask = impl_->mask;
  int64_t shape = static_cast<int64_t>(mask.size());
  DLTensor tensor{.data = mask.data(), .device = {kDLCPU, 0}, .ndim = 1, .dtype = xgrammar::GetBitmaskDLType(), .shape = &shape, .strides = nullptr, .byte_offset = 0};
  impl_->timed([&] { return impl_->matcher.FillNextTokenBitmask(&tensor); });
  const size_t common = std::min(mask.size(), bits.size());
  std::copy_n(mask.begin(), common, bits.begin());
  std::fill(bits.begin() + static_cast<int64_t>(common), bits.end(), 0u);
}

// ---- the compiler ----

namespace {
// One grammar on its way.
struct Job {
  std::string ebnf, root;
  bool done = false;
  Result<std::shared_ptr<const Grammar>> result = std::shared_ptr<const Grammar>();
};
constexpr int kThreads = 2;
constexpr size_t kMaxWaiting = 64;

// An allowed id that lies `part` of the way through those that are; -1: there is none.
int32_t allowed_id(std::span<const uint32_t> mask, double part) {
  int64_t count = 0;
  for (const uint32_t word : mask) count += std::popcount(word);
  auto left = static_cast<int64_t>(part * static_cast<double>(count));
  for (size_t word = 0; word < mask.size() && count > 0; ++word) {
    for (uint32_t bits = mask[word]; bits != 0; bits &= bits - 1) {
      if (left-- == 0) return static_cast<int32_t>(word * 32) + std::countr_zero(bits);
    }
  }
  return -1;
}
}  // namespace

struct GrammarCompiler::Impl : std::enable_shared_from_this<GrammarCompiler::Impl> {
  GrammarLimits limits;
  std::vector<std::string> vocabulary;
  std::vector<int32_t> stop_ids;

  std::mutex mutex;
  std::condition_variable work, finished;
  std::list<std::shared_ptr<Job>> waiting;
  bool stopping = false, ready = false, failed = false;
  int num_threads = 0;
  std::optional<xgrammar::TokenizerInfo> info;

  // Most recently used first.
  using Entry = std::pair<std::string, std::shared_ptr<const Grammar>>;
  std::list<Entry> cached;
  std::unordered_map<std::string, std::list<Entry>::iterator> by_text;

  std::shared_ptr<const Grammar> find(const std::string& text) {
    const auto found = by_text.find(text);
    if (found == by_text.end()) return nullptr;
    cached.splice(cached.begin(), cached, found->second);
    return found->second->second;
  }
  void keep(const std::string& text, std::shared_ptr<const Grammar> grammar) {
    if (by_text.contains(text)) return;
    cached.emplace_front(text, std::move(grammar));
    by_text[text] = cached.begin();
    if (cached.size() <= limits.max_cached) return;
    by_text.erase(cached.back().first);
    cached.pop_back();
  }

  // The threads hold this object: one that is inside a grammar of hours does not keep the program from ending.
  void start_threads() {
    for (; num_threads < kThreads; ++num_threads) std::thread([self = shared_from_this(), first = num_threads == 0] { self->run(first); }).detach();
  }

  void run(bool first) {
    if (first) {
      xgrammar::TokenizerInfo made(vocabulary, xgrammar::VocabType::RAW, static_cast<int>(vocabulary.size()), std::vector<int32_t>(stop_ids));
      const std::lock_guard lock(mutex);
      info = std::move(made);
      vocabulary = {};
      ready = true;
      work.notify_all();
      finished.notify_all();
    }
    std::unique_lock lock(mutex);
    while (true) {
      work.wait(lock, [&] { return stopping || (ready && !waiting.empty()); });
      if (stopping) return;
      const std::shared_ptr<Job> job = std::move(waiting.front());
      waiting.pop_front();
      lock.unlock();
      auto result = compiled(*job);
      lock.lock();
      if (result) keep(job->root + '\n' + job->ebnf, *result);
      job->result = std::move(result);
      job->done = true;
      finished.notify_all();
    }
  }

  Result<std::shared_ptr<const Grammar>> compiled(const Job& job) const {
    try {
      const int threads = std::clamp(static_cast<int>(std::thread::hardware_concurrency()) / 4, 1, 8);  // the masks of an automaton's states are made side by side
      xgrammar::GrammarCompiler compiler(*info, threads, /*cache_enabled=*/false);
      auto grammar = std::make_shared<Grammar>(std::make_unique<Grammar::Impl>(Grammar::Impl{compiler.CompileGrammar(job.ebnf, job.root), limits.max_token_seconds}));
      if (grammar->bytes() > limits.max_bytes) {
        return fail(ErrorCode::invalid_argument, "the grammar takes {} MiB, at most {} are allowed; use a smaller schema", grammar->bytes() >> 20, limits.max_bytes >> 20);
      }
      GrammarMatcher matcher(grammar, stop_ids);
      std::vector<uint32_t> mask(static_cast<size_t>(xgrammar::GetBitmaskSize(info->GetVocabSize())));
      constexpr int kTried = 8;
      for (int i = 0; i < kTried && !matcher.ended(); ++i) {
        const double began = monotonic_seconds();
        matcher.allowed(mask);
        const int32_t id = allowed_id(mask, (i + 0.5) / kTried);
        if (id < 0 && i == 0) return fail(ErrorCode::invalid_argument, "the grammar allows no text at all");
        if (id >= 0) matcher.accept(id);
        if (monotonic_seconds() - began > limits.max_token_seconds) {
          return fail(ErrorCode::invalid_argument, "the grammar is too ambiguous: a token takes longer than {} s; repeat less within what is repeated", limits.max_token_seconds);
        }
        if (id < 0) break;
      }
      return std::shared_ptr<const Grammar>(std::move(grammar));
    } catch (const std::bad_alloc&) {
      return fail(ErrorCode::invalid_argument, "the grammar does not fit the memory; use a smaller schema");
    } catch (const std::exception& error) {
      return fail(ErrorCode::invalid_argument, "the grammar does not compile: {}", error.what());
    }
  }
};

GrammarCompiler::GrammarCompiler(const Tokenizer& tokenizer, std::vector<int32_t> stop_ids, GrammarLimits limits) : impl_(std::make_shared<Impl>()) {
  impl_->limits = limits;
  impl_->stop_ids = std::move(stop_ids);
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    // Control tokens match by their ids alone: their text begins with a byte that no character has. (xgrammar never accepts a token without text.)
    impl_->vocabulary.push_back(tokenizer.is_special(id) ? "\xff" + std::string(tokenizer.token_string(id)) : tokenizer.token_bytes(id));
  }
}

GrammarCompiler::~GrammarCompiler() {
  const std::lock_guard lock(impl_->mutex);
  impl_->stopping = true;
  impl_->work.notify_all();
}

void GrammarCompiler::warm_up() {
  std::unique_lock lock(impl_->mutex);
  impl_->start_threads();
}

Result<std::shared_ptr<const Grammar>> GrammarCompiler::compile(const std::string& ebnf, const std::string& root) {
  std::unique_lock lock(impl_->mutex);
  if (auto found = impl_->find(root + '\n' + ebnf)) return found;
  if (impl_->waiting.size() >= kMaxWaiting) return fail(ErrorCode::unavailable, "too many grammars are being compiled; try again later");
  impl_->start_threads();
  impl_->finished.wait(lock, [&] { return impl_->ready; });  // the vocabulary does not count
  auto job = std::make_shared<Job>();
  job->ebnf = ebnf;
  job->root = root;
  impl_->waiting.push_back(job);
  impl_->work.notify_one();
  const bool in_time = impl_->limits.max_seconds > 0 && impl_->finished.wait_for(lock, std::chrono::duration<double>(impl_->limits.max_seconds), [&] { return job->done; });
  if (in_time) return job->result;
  // One that has not begun need not begin.
  if (std::erase(impl_->waiting, job) > 0) return fail(ErrorCode::unavailable, "too many grammars are being compiled; try again later");
  log_warning("a grammar of {} bytes takes longer than {} s to compile; its request is refused", ebnf.size(), impl_->limits.max_seconds);
  return fail(ErrorCode::invalid_argument, "the grammar takes longer than {} s to compile; use a smaller schema", impl_->limits.max_seconds);
}
}  // namespace nibble
