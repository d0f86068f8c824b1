// What routes send, from any thread, on its way to a connection's event loop and socket. Part of the transport: http_server.cpp is its user.
//
// A connection lives on one loop, and so on one thread. The engine gives the streams of a step their tokens one right after the other: what comes while a loop is
// at work gathers in its inbox without waking anybody, and goes out in one write for each connection that it is for.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "server/http.h"
#include "server/http_text.h"

namespace nibble {
class Outbox;

// One thread's work, as far as outboxes need it.
class EventLoop {
 public:
  EventLoop() = default;
  virtual ~EventLoop() = default;
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  // Any thread; `work` (may be empty) runs on the loop's, in order, then what `outbox` holds is passed on.
  void post(std::shared_ptr<Outbox> outbox, std::function<void()> work);
  virtual void after(double seconds, std::function<void()> work) = 0;  // any thread
  virtual bool is_here() = 0;                                          // whether this is the loop's thread
  bool is_draining_for(const Outbox* outbox) const { return current_ == outbox; }  // on the loop's thread: what it puts in is passed on soon

 protected:
  virtual void call_drain_soon() = 0;  // any thread
  void drain();                        // on the loop's thread
  void forget();                       // drops what is in the inbox

 private:
  struct Task {
    std::shared_ptr<Outbox> outbox;
    std::function<void()> work;
  };
  std::mutex mutex_;
  std::vector<Task> inbox_;
  bool awake_ = false;        // drain() runs or is about to
  std::vector<Task> batch_;   // the loop's own, as what follows
  const Outbox* current_ = nullptr;
};

// A connection whose coroutine waits for something to send. On the loop's thread only.
class Recipient {
 public:
  virtual ~Recipient() = default;
  virtual size_t send_now(std::string_view bytes) = 0;  // past the coroutine, which costs less; how much of it is sent
  virtual void wake() = 0;
};

// What a route sends in one exchange.
class Outbox final : public Exchange, public std::enable_shared_from_this<Outbox> {
 public:
  explicit Outbox(EventLoop& loop) : loop_(loop) {}

  void respond(HttpResponse response) override;
  void start_events() override;
  void event(std::string data, std::string_view name) override;
  void finish() override;
  void on_disconnect(std::function<void()> callback) override;
  void post(std::function<void()> work) override { loop_.post(shared_from_this(), std::move(work)); }
  void post_later(double seconds, std::function<void()> work) override;

  // ---- for the loop's thread ----

  // Events go to the recipient that waits for them; what it does not take, and all else, wakes it.
  void await(Recipient* recipient, bool takes_events) {
    recipient_ = recipient;
    takes_events_ = takes_events;
  }
  void awake() { recipient_ = nullptr; }
  void pass_on();       // what came in
  void disconnected();
  void settle();        // the reply is out: what waited for the client to leave is let go, and with it whatever that holds

  struct Batch {
    std::unique_ptr<HttpResponse> response;
    std::string events;  // a chunk, or what is left of one that was sent in part and perhaps another
    bool streaming = false, finished = false, gone = false;
  };
  Batch take();

 private:
  template <typename Change>
  void put(Change change);

  EventLoop& loop_;
  Recipient* recipient_ = nullptr;  // the loop's, as the next three
  bool takes_events_ = false;
  EventChunk sending_;
  std::string rest_;                // of a chunk that was sent in part

  std::mutex mutex_;                // of what follows
  std::unique_ptr<HttpResponse> response_;
  EventChunk unsent_;
  bool streaming_ = false, finished_ = false, gone_ = false, changed_ = false;
  std::function<void()> on_disconnect_;
};
}  // namespace nibble
