#include "server/outbox.h"

namespace nibble {
namespace {
constexpr size_t kMaxUnsentBytes = 1 << 20;  // a reader that lags further behind is cut off
}

void EventLoop::post(std::shared_ptr<Outbox> outbox, std::function<void()> work) {
  bool wake;
  {
    const std::lock_guard lock(mutex_);
    inbox_.push_back({std::move(outbox), std::move(work)});
    wake = !std::exchange(awake_, true);
  }
  if (wake) call_drain_soon();
}

void EventLoop::drain() {
  {
    const std::lock_guard lock(mutex_);
    batch_.swap(inbox_);
  }
  for (size_t i = 0; i < batch_.size(); ++i) {
    Outbox* const outbox = batch_[i].outbox.get();
    current_ = outbox;
    if (batch_[i].work) batch_[i].work();
    // The tokens of a verified draft come one after the other, and go out together.
    if (i + 1 < batch_.size() && batch_[i + 1].outbox.get() == outbox) continue;
    current_ = nullptr;
    outbox->pass_on();
  }
  batch_.clear();
  {
    const std::lock_guard lock(mutex_);
    awake_ = !inbox_.empty();
    if (!awake_) return;
  }
  call_drain_soon();  // sockets and timers have their turn in between
}

void EventLoop::forget() {
  inbox_.clear();
  batch_.clear();
}

template <typename Change>
void Outbox::put(Change change) {
  {
    const std::lock_guard lock(mutex_);
    if (gone_) return;
    change();
    changed_ = true;
  }
  if (!loop_.is_here()) return loop_.post(shared_from_this(), nullptr);
  if (!loop_.is_draining_for(this)) pass_on();
}

void Outbox::respond(HttpResponse response) {
  put([&] {
    if (!response_ && !streaming_) response_ = std::make_unique<HttpResponse>(std::move(response));
    finished_ = true;
  });
}

void Outbox::start_events() {
  put([&] { streaming_ = true; });
}

void Outbox::event(std::string data, std::string_view name) {
  bool overfull = false;
  put([&] {
    overfull = unsent_.size() > kMaxUnsentBytes;
    if (!overfull) unsent_.add(data, name);
  });
  if (overfull) disconnected();  // its request is cancelled; the coroutine ends when it next wakes
}

void Outbox::finish() {
  put([&] { finished_ = true; });
}

void Outbox::on_disconnect(std::function<void()> callback) {
  bool now;
  {
    const std::lock_guard lock(mutex_);
    now = gone_;
    if (!now) on_disconnect_ = std::move(callback);
  }
  if (now) callback();
}

void Outbox::post_later(double seconds, std::function<void()> work) {
  loop_.after(seconds, [alive = weak_from_this(), work = std::move(work)] {
    if (const auto self = alive.lock()) work();
  });
}

void Outbox::disconnected() {
  std::function<void()> callback;
  {
    const std::lock_guard lock(mutex_);
    gone_ = true;
    callback = std::exchange(on_disconnect_, nullptr);
  }
  if (callback) callback();
}

void Outbox::settle() {
  std::function<void()> callback;  // destroyed after the lock is given back
  const std::lock_guard lock(mutex_);
  callback = std::exchange(on_disconnect_, nullptr);
}

Outbox::Batch Outbox::take() {
  Batch out{.response = nullptr, .events = std::exchange(rest_, {})};
  const std::lock_guard lock(mutex_);
  out.response = std::move(response_);
  if (!unsent_.empty()) out.events += unsent_.finish();
  unsent_.clear();
  out.streaming = streaming_;
  out.finished = finished_;
  out.gone = gone_;
  changed_ = false;
  return out;
}

void Outbox::pass_on() {
  bool direct;
  {
    const std::lock_guard lock(mutex_);
    if (!std::exchange(changed_, false)) return;
    direct = recipient_ && takes_events_ && streaming_ && !finished_ && !response_ && !gone_ && !unsent_.empty();
    if (direct) std::swap(sending_, unsent_);
  }
  if (direct) {
    const std::string_view bytes = sending_.finish();
    rest_ = bytes.substr(recipient_->send_now(bytes));
    sending_.clear();
    if (rest_.empty()) return;
  }
  if (recipient_) std::exchange(recipient_, nullptr)->wake();
}
}  // namespace nibble
