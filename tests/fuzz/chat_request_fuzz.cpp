// rooms: server
// Any body of POST /v1/chat/completions, /v1/responses and /v1/messages, through everything up to the engine and back: checks, normalization, the demo's template, its tokenizer, replies of a model
// of random tokens, streamed and not, and clients that leave. The answer is 200 or a refusal with a message, never an internal error, and always JSON.
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <mutex>
#include <nlohmann/json.hpp>
#include <set>

#include "base/log.h"
#include "base/rng.h"
#include "server/api.h"

namespace {
using namespace nibble;

void require(bool holds) {
  if (!holds) std::abort();
}

// Tokens drawn by position alone, now and then a marker of the output format.
class RandomModel final : public ForwardModel {
 public:
  explicit RandomModel(const Tokenizer& tokenizer) : vocab_(tokenizer.vocab_size()) {
    for (const char* marker : {"<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|\"|>", "<turn|>"}) {
      if (const auto id = tokenizer.id_of(marker)) markers_.push_back(*id);
    }
  }
  int32_t vocab_size() const override { return vocab_; }
  const KvGeometry& kv_geometry() const override { return geometry_; }
  int32_t max_rows() const override { return 256; }
  void forward(const Step& step, float* logits) override {
    std::fill_n(logits, step.logit_rows.size() * static_cast<size_t>(vocab_), 0.0f);
    for (size_t row = 0; row < step.logit_rows.size(); ++row) {
      const uint32_t drawn = philox4x32({static_cast<uint32_t>(step.logit_rows[row]), static_cast<uint32_t>(step.ids[static_cast<size_t>(step.logit_rows[row])]), counter_++, 0}, 1)[0];
      const int32_t id = drawn % 8 == 0 && !markers_.empty() ? markers_[drawn / 8 % markers_.size()] : static_cast<int32_t>(drawn / 8 % static_cast<uint32_t>(vocab_));
      logits[row * static_cast<size_t>(vocab_) + static_cast<size_t>(id)] = 20;
    }
  }

 private:
  int32_t vocab_;
  uint32_t counter_ = 0;
  std::vector<int32_t> markers_;
  KvGeometry geometry_{.page_tokens = 16, .num_full_pages = 128, .num_sliding_pages = 128, .sliding_window = 64, .full_page_bytes = 1, .sliding_page_bytes = 1};
};

class RecordingExchange final : public Exchange {
 public:
  void respond(HttpResponse response) override {
    static const std::set<int> kKnown{200, 400, 404, 503};
    require(kKnown.contains(response.status));
    const auto body = nlohmann::json::parse(response.body, nullptr, false);
    require(body.is_object());
    if (response.status != 200) require(!body["error"]["message"].get<std::string>().empty());
    finish();
  }
  void start_events() override {}
  void event(std::string data, std::string_view) override { require(data == "[DONE]" || nlohmann::json::parse(data, nullptr, false).is_object()); }
  void finish() override {
    const std::lock_guard lock(mutex_);
    done_ = true;
    ready_.notify_one();
  }
  void on_disconnect(std::function<void()> callback) override { disconnect_ = std::move(callback); }
  void post(std::function<void()> work) override {
    const std::lock_guard lock(mutex_);
    if (gone_) return;
    work_.push_back(std::move(work));
    ready_.notify_one();
  }

  // What the connection's thread would do, for at most `steps` pieces of work; then the client leaves.
  void serve(int steps) {
    while (steps-- > 0) {
      std::unique_lock lock(mutex_);
      ready_.wait(lock, [&] { return done_ || !work_.empty(); });
      if (done_) break;
      const auto work = std::move(work_.front());
      work_.pop_front();
      lock.unlock();
      work();
    }
    std::unique_lock lock(mutex_);
    const bool left = !done_;
    gone_ = true;
    lock.unlock();
    if (disconnect_ && left) disconnect_();
    disconnect_ = nullptr;
    lock.lock();
    work_.clear();
  }

 private:
  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<std::function<void()>> work_;
  std::function<void()> disconnect_;
  bool done_ = false, gone_ = false;
};

struct House {
  Tokenizer tokenizer = Tokenizer::load(std::filesystem::path(NIBBLE_REPO_DIR) / "models/demo");
  ChatTemplate chat_template = *ChatTemplate::load({.folder = std::filesystem::path(NIBBLE_REPO_DIR) / "models/demo", .override_text = {}, .name = {}});
  RandomModel model{tokenizer};
  Engine engine{model, EngineOptions{.max_running_requests = 8, .decode_log_interval = 0}};
  Api api{options(tokenizer), engine, tokenizer, &chat_template};

  static ApiOptions options(const Tokenizer& tokenizer) {
    ApiOptions o;
    o.served_names = {"demo"};
    o.context_length = 1024;
    o.stop_ids = {*tokenizer.id_of("<turn|>")};
    return o;
  }
  House() { api.set_phase(ApiPhase::ready); }
};
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static House house;
  for (const char* path : {"/v1/chat/completions", "/v1/responses", "/v1/messages"}) {
    HttpRequest request;
    request.method = "POST";
    request.path = path;
    request.headers["content-type"] = "application/json";
    request.body.assign(reinterpret_cast<const char*>(data), size);
    request.peer = "127.0.0.1";
    request.id = "fuzz";
    const auto exchange = std::make_shared<RecordingExchange>();
    house.api.handle(request, exchange);
    exchange->serve(static_cast<int>(size % 3) * 40);
  }
  return 0;
}
