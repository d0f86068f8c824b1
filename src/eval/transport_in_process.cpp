#include <condition_variable>
#include <deque>
#include <mutex>
#include <set>

#include "eval/timers.h"
#include "eval/transport.h"
#include "server/api.h"
#include "server/http.h"

namespace nibble {
namespace {
// Work from any thread for the one that runs the transport.
struct Inbox {
  std::mutex mutex;
  std::condition_variable arrived;
  std::deque<std::function<void()>> work;

  void post(std::function<void()> w) {
    {
      const std::lock_guard lock(mutex);
      work.push_back(std::move(w));
    }
    arrived.notify_one();
  }
};

// One call on its way through the routes. Its state belongs to the running thread; answers from other threads are posted there.
class LocalExchange final : public Exchange, public std::enable_shared_from_this<LocalExchange> {
 public:
  LocalExchange(std::shared_ptr<Inbox> inbox, HttpCall call) : inbox_(std::move(inbox)), call_(std::move(call)) {}

  std::function<void()> on_end;  // for the transport's count

  void respond(HttpResponse response) override {
    inbox_->post([self = shared_from_this(), response = std::move(response)]() mutable {
      self->outcome.status = response.status;
      self->outcome.body = std::move(response.body);
      self->end();
    });
  }
  void start_events() override {
    inbox_->post([self = shared_from_this()] { self->outcome.status = 200; });
  }
  void event(std::string data, std::string_view name) override {
    const std::string line = name.empty() ? "" : "event: " + std::string(name) + "\n";
    inbox_->post([self = shared_from_this(), data = line + "data: " + std::move(data) + "\n\n", now = monotonic_ns()] {
      if (self->done) return;
      if (self->call_.on_body) {
        self->call_.on_body(data, now);
      } else {
        self->outcome.body += data;
      }
    });
  }
  void finish() override {
    inbox_->post([self = shared_from_this()] { self->end(); });
  }
  void on_disconnect(std::function<void()> callback) override { disconnect_ = std::move(callback); }
  void post(std::function<void()> work) override {
    inbox_->post([self = shared_from_this(), work = std::move(work)] { work(); });
  }

  void cancel() {
    if (done) return;
    outcome.error = "cancelled";
    if (disconnect_) std::exchange(disconnect_, nullptr)();
    end();
  }
  void end() {
    if (std::exchange(done, true)) return;
    outcome.end_ns = monotonic_ns();
    disconnect_ = nullptr;
    on_end();
    call_.on_done(std::move(outcome));
  }

  HttpOutcome outcome;
  bool done = false;

 private:
  std::shared_ptr<Inbox> inbox_;
  HttpCall call_;
  std::function<void()> disconnect_;
};

class InProcessTransport final : public Transport {
 public:
  explicit InProcessTransport(Api& api) : api_(api) {}

  void start(HttpCall call) override {
    HttpRequest request;
    request.method = call.method;
    request.path = call.target;
    request.body = call.body;
    request.headers = {{"content-type", "application/json"}};
    request.peer = "127.0.0.1";
    request.id = "local-" + std::to_string(++next_id_);
    const auto exchange = std::make_shared<LocalExchange>(inbox_, std::move(call));
    live_.insert(exchange);
    exchange->on_end = [this, weak = std::weak_ptr(exchange)] { live_.erase(weak.lock()); };
    exchange->outcome.start_ns = monotonic_ns();
    api_.handle(request, exchange);
  }
  void at(int64_t when_ns, std::function<void()> work) override { timers_.add(when_ns, std::move(work)); }

  void run(const std::function<void()>& poll) override {
    while (true) {
      timers_.run_due(monotonic_ns());
      if (poll) poll();
      if (live_.empty() && timers_.empty()) return;
      std::deque<std::function<void()>> batch;
      {
        std::unique_lock lock(inbox_->mutex);
        const int64_t now = monotonic_ns(), until = std::min(timers_.next(now + 100'000'000), now + 100'000'000);
        inbox_->arrived.wait_for(lock, std::chrono::nanoseconds(std::max<int64_t>(until - now, 0)), [&] { return !inbox_->work.empty(); });
        batch.swap(inbox_->work);
      }
      for (auto& work : batch) work();
    }
  }

  void cancel_all() override {
    timers_.clear();
    const auto live = live_;
    for (const auto& exchange : live) exchange->cancel();
  }

 private:
  Api& api_;
  std::shared_ptr<Inbox> inbox_ = std::make_shared<Inbox>();
  std::set<std::shared_ptr<LocalExchange>> live_;
  Timers timers_;
  int64_t next_id_ = 0;
};
}  // namespace

std::unique_ptr<Transport> make_in_process_transport(Api& api) { return std::make_unique<InProcessTransport>(api); }
}  // namespace nibble
