#include "server/api_impl.h"
#include "server/forwarding_exchange.h"

namespace nibble {
namespace {
class TrackedExchange final : public ForwardingExchange {
 public:
  TrackedExchange(ExchangePtr inner, std::shared_ptr<Api::Impl> api, std::string endpoint) : ForwardingExchange(std::move(inner)), api_(std::move(api)), endpoint_(std::move(endpoint)) {
    api_->metrics.count_active(1);
  }
  ~TrackedExchange() override { api_->metrics.count_active(-1); }
  void respond(HttpResponse response) override {
    api_->metrics.count_http_response(endpoint_, response.status);
    ForwardingExchange::respond(std::move(response));
  }
  void start_events() override {
    api_->metrics.count_http_response(endpoint_, 200);
    ForwardingExchange::start_events();
  }

 private:
  std::shared_ptr<Api::Impl> api_;
  std::string endpoint_;
};
}  // namespace

ExchangePtr tracked_exchange(ExchangePtr inner, std::shared_ptr<Api::Impl> api, std::string endpoint) {
  return std::make_shared<TrackedExchange>(std::move(inner), std::move(api), std::move(endpoint));
}
}  // namespace nibble
