// An exchange that passes everything on to another: the base of those that look at, or change, a part of what goes by.
#pragma once

#include <utility>

#include "server/http.h"

namespace nibble {
class ForwardingExchange : public Exchange {
 public:
  explicit ForwardingExchange(ExchangePtr inner) : inner_(std::move(inner)) {}
  void respond(HttpResponse response) override { inner_->respond(std::move(response)); }
  void start_events() override { inner_->start_events(); }
  void event(std::string data, std::string_view name) override { inner_->event(std::move(data), name); }
  void finish() override { inner_->finish(); }
  void on_disconnect(std::function<void()> callback) override { inner_->on_disconnect(std::move(callback)); }
  void post(std::function<void()> work) override { inner_->post(std::move(work)); }
  void post_later(double seconds, std::function<void()> work) override { inner_->post_later(seconds, std::move(work)); }

 private:
  ExchangePtr inner_;
};
}  // namespace nibble
