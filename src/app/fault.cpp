#include "app/fault.h"

#include <charconv>
#include <chrono>
#include <csignal>
#include <thread>

#include "base/error.h"

namespace nibble {
namespace {
class FaultyModel final : public ForwardModel {
 public:
  FaultyModel(ForwardModel& inner, Fault fault) : inner_(inner), fault_(fault) {}
  int32_t vocab_size() const override { return inner_.vocab_size(); }
  const KvGeometry& kv_geometry() const override { return inner_.kv_geometry(); }
  int32_t max_rows() const override { return inner_.max_rows(); }
  bool takes_images() const override { return inner_.takes_images(); }
  bool takes_audio() const override { return inner_.takes_audio(); }
  int32_t kept_logit_rows() const override { return inner_.kept_logit_rows(); }
  void candidates(std::span<const LogitEdit> edits, const AllowedIds& allowed, std::span<const float> temperatures, int32_t count, Candidate* candidates, RowSummary* summaries) override {
    inner_.candidates(edits, allowed, temperatures, count, candidates, summaries);
  }
  void read_logits(int32_t row, float* logits) override { inner_.read_logits(row, logits); }
  bool is_lost() override { return (fault_.kind == Fault::Kind::lost && steps_ >= fault_.step) || inner_.is_lost(); }
  void forward(const Step& step, float* logits) override {
    if (++steps_ == fault_.step || (fault_.kind == Fault::Kind::lost && steps_ > fault_.step)) go_wrong();
    inner_.forward(step, logits);
  }

 private:
  void go_wrong() const {
    if (fault_.kind == Fault::Kind::crash) std::raise(SIGSEGV);
    while (fault_.kind == Fault::Kind::hang) std::this_thread::sleep_for(std::chrono::hours(1));
    raise(ErrorCode::internal, "step {} fails (--inject-fault)", steps_);
  }

  ForwardModel& inner_;
  Fault fault_;
  int64_t steps_ = 0;
};
}  // namespace

Fault parse_fault(const std::string& text) {
  if (text.empty()) return {};
  const size_t colon = text.find(':');
  const std::string kind = text.substr(0, colon), number = colon == std::string::npos ? "" : text.substr(colon + 1);
  Fault fault;
  for (const auto& [name, value] : {std::pair{"error", Fault::Kind::error}, {"lost", Fault::Kind::lost}, {"crash", Fault::Kind::crash}, {"hang", Fault::Kind::hang}}) {
    if (kind == name) fault.kind = value;
  }
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), fault.step);
  if (fault.kind == Fault::Kind::none || error != std::errc() || end != number.data() + number.size() || fault.step < 1) {
    raise(ErrorCode::invalid_argument, "--inject-fault {}: wanted error:N, lost:N, crash:N or hang:N, with the number of a step from 1", text);
  }
  return fault;
}

std::unique_ptr<ForwardModel> with_fault(ForwardModel& inner, Fault fault) { return std::make_unique<FaultyModel>(inner, fault); }
}  // namespace nibble
