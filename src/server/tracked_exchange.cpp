#include "server/api_impl.h"

namespace nibble {
namespace {
class TrackedExchange final : public Exchange {
 public:
  TrackedExchange(ExchangePtr inner, std::shared_ptr<Api::Impl> api, std::string endpoint) : inner_(std::move(inner)), api_(std::move(api)), endpoint_(std::move(endpoint)) {
    api_->metrics.count_active(1);
  }
  ~TrackedExchange() override { api_->metrics.count_active(-1); }
  void respond(HttpResponse response) override {
    api_->metrics.count_http_response(endpoint_, response.status);
    inner_->respond(std::move(response));
  }
  void start_events() override {
    api_->metrics.count_http_response(endpoint_, 200);
    inner_->start_events();
  }
  void event(std::string data, std::string_view name) override { inner_->event(std::move(data), name); }
  void finish() override { inner_->finish(); }
  void on_disconnect(std::function<void()> callback) override { inner_->on_disconnect(std::move(callback)); }
  void post(std::function<void()> work) override { inner_->post(std::move(work)); }

 private:
  ExchangePtr inner_;
  std::shared_ptr<Api::Impl> api_;
  std::string endpoint_;
};
}  // namespace

ExchangePtr tracked_exchange(ExchangePtr inner, std::shared_ptr<Api::Impl> api, std::string endpoint) {
  return std::make_shared<TrackedExchange>(std::move(inner), std::move(api), std::move(endpoint));
}
}  // namespace nibble
