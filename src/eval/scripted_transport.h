// A transport for tests: its own clock, and answers that arrive when a script says.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "eval/timers.h"
#include "eval/transport.h"

namespace nibble {
class ScriptedTransport final : public Transport {
 public:
  // Pieces of the body and when they come, in ns after the request; the answer is whole after the last.
  using Script = std::vector<std::pair<int64_t, std::string>>;
  explicit ScriptedTransport(std::function<Script(const HttpCall&, size_t number)> script, int status = 200) : script_(std::move(script)), status_(status) {}

  void start(HttpCall call) override {
    calls.push_back(call);
    in_flight_ += 1;
    max_in_flight = std::max(max_in_flight, in_flight_);
    starts.push_back(now_);
    const Script script = script_(call, calls.size() - 1);
    const int64_t began = now_;
    int64_t last = 0;
    const auto shared = std::make_shared<HttpCall>(std::move(call));
    const auto whole = std::make_shared<std::string>();
    for (const auto& [after, bytes] : script) {
      last = std::max(last, after);
      timers_.add(began + after, [this, shared, whole, bytes = bytes] {
        if (shared->on_body && status_ == 200) {
          shared->on_body(bytes, now_);
        } else {
          *whole += bytes;
        }
      });
    }
    timers_.add(began + last, [this, shared, whole, began] {
      --in_flight_;
      HttpOutcome outcome;
      outcome.status = status_;
      outcome.body = *whole;
      outcome.start_ns = began;
      outcome.end_ns = now_;
      shared->on_done(std::move(outcome));
    });
  }
  void at(int64_t when_ns, std::function<void()> work) override { timers_.add(when_ns, std::move(work)); }
  void run(const std::function<void()>& poll) override {
    while (!timers_.empty()) {
      now_ = std::max(now_, timers_.next(now_));
      timers_.run_due(now_);
      if (poll) poll();
    }
  }
  int64_t now_ns() const override { return now_; }
  void cancel_all() override { timers_.clear(); }

  std::vector<HttpCall> calls;
  std::vector<int64_t> starts;
  int max_in_flight = 0;

 private:
  std::function<Script(const HttpCall&, size_t)> script_;
  int status_;
  Timers timers_;
  int64_t now_ = 1'000'000'000;
  int in_flight_ = 0;
};
}  // namespace nibble
