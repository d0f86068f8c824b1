// The routes, their description, and what a balancer sees of an engine that is stuck.
#include "server/routes.h"

#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <mutex>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "base/test_paths.h"
#include "server/api.h"
#include "server/openapi.h"

namespace nibble {
namespace {
using Pairs = std::set<std::pair<std::string, std::string>>;  // path, method

TEST(OpenApi, DescribesEveryRouteThatIsServedAndNoOther) {
  const auto document = nlohmann::json::parse(openapi_document("1.2.3"));
  EXPECT_EQ(document["info"]["version"], "1.2.3");
  EXPECT_EQ(document["openapi"], "3.1.0");
  Pairs described, served;
  std::set<std::string> operations;
  for (const auto& [path, item] : document["paths"].items()) {
    for (const auto& [method, operation] : item.items()) {
      if (method == "parameters") continue;
      std::string upper = method;
      for (char& c : upper) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
      described.insert({path, upper});
      EXPECT_TRUE(operations.insert(operation["operationId"]).second) << operation["operationId"];
    }
  }
  for (const Route& route : api_routes()) {
    for (const char* method : {"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"}) {
      if (takes(route, method)) served.insert({std::string(route.path), method});
    }
  }
  EXPECT_EQ(described, served);
}

void collect_references(const nlohmann::json& at, std::set<std::string>& out) {
  if (at.is_object() && at.contains("$ref")) out.insert(at["$ref"]);
  if (at.is_structured()) {
    for (const auto& item : at) collect_references(item, out);
  }
}

TEST(OpenApi, EveryReferenceLeadsSomewhereAndNothingIsLeftOver) {
  const auto document = nlohmann::json::parse(openapi_document("1"));
  std::set<std::string> references, known;
  collect_references(document, references);
  for (const char* kind : {"schemas", "responses"}) {
    for (const auto& [name, value] : document["components"][kind].items()) known.insert(std::string("#/components/") + kind + "/" + name);
  }
  EXPECT_EQ(references, known);
}

TEST(Routes, AreFoundByPathAndModelsByPrefix) {
  EXPECT_EQ(find_route("/v1/models")->path, "/v1/models");
  EXPECT_EQ(find_route("/v1/models/org/name")->path, "/v1/models/{id}");
  EXPECT_EQ(find_route("/v1/models/"), nullptr);
  EXPECT_EQ(find_route("/v1/nothing"), nullptr);
  EXPECT_TRUE(takes(*find_route("/generate"), "PUT"));
  EXPECT_FALSE(takes(*find_route("/generate"), "PU"));
  EXPECT_TRUE(is_not_offered("/v1/embeddings"));
  for (const Route& route : api_routes()) EXPECT_FALSE(is_not_offered(route.path)) << route.path;
}

// A model whose steps end when they are told to.
class GatedModel final : public ForwardModel {
 public:
  explicit GatedModel(int32_t vocab) : vocab_(vocab) {}
  int32_t vocab_size() const override { return vocab_; }
  const KvGeometry& kv_geometry() const override { return geometry_; }
  int32_t max_rows() const override { return 64; }
  void forward(const Step& step, float* logits) override {
    std::unique_lock lock(mutex_);
    open_.wait(lock, [&] { return is_open_; });
    std::fill_n(logits, step.logit_rows.size() * static_cast<size_t>(vocab_), 0.0f);
  }
  void set_open(bool open) {
    const std::lock_guard lock(mutex_);
    is_open_ = open;
    open_.notify_all();
  }

 private:
  int32_t vocab_;
  bool is_open_ = true;
  std::mutex mutex_;
  std::condition_variable open_;
  KvGeometry geometry_{.page_tokens = 16, .num_full_pages = 64, .num_sliding_pages = 64, .sliding_window = 64, .full_page_bytes = 1, .sliding_page_bytes = 1};
};

class OneAnswer final : public Exchange {
 public:
  explicit OneAnswer(std::vector<std::jthread>& later) : later_(later) {}
  void post_later(double seconds, std::function<void()> work) override {
    later_.emplace_back([seconds, work = std::move(work)] {
      std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
      work();
    });
  }
  void respond(HttpResponse response) override {
    const std::lock_guard lock(mutex_);
    status_ = response.status;
    answered_.notify_all();
  }
  void start_events() override {}
  void event(std::string, std::string_view) override {}
  void finish() override {}
  void on_disconnect(std::function<void()>) override {}
  void post(std::function<void()> work) override { work(); }
  int status(std::chrono::seconds patience = std::chrono::seconds(20)) {
    std::unique_lock lock(mutex_);
    answered_.wait_for(lock, patience, [&] { return status_ != 0; });
    return status_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable answered_;
  int status_ = 0;
  std::vector<std::jthread>& later_;
};

struct House {
  Tokenizer tokenizer = Tokenizer::load(std::filesystem::path(NIBBLE_REPO_DIR) / "models/demo");
  GatedModel model{tokenizer.vocab_size()};
  Engine engine{model, EngineOptions{.decode_log_interval = 0}};
  Api api{options(), engine, tokenizer, nullptr};
  std::vector<std::jthread> later;  // ends first

  static ApiOptions options() {
    ApiOptions o;
    o.served_names = {"demo"};
    o.context_length = 512;
    o.stuck_seconds = 0.2;
    return o;
  }
  std::shared_ptr<OneAnswer> ask(const std::string& method, const std::string& path, const std::string& body = "") {
    HttpRequest request;
    request.method = method;
    request.path = path;
    request.body = body;
    request.peer = "127.0.0.1";
    request.id = "test";
    auto answer = std::make_shared<OneAnswer>(later);
    api.handle(request, answer);
    return answer;
  }
};

TEST(Health, FailsWhileAStepDoesNotEndAndRecovers) {
  House house;
  EXPECT_EQ(house.ask("GET", "/health")->status(), 503);  // starting
  house.api.set_phase(ApiPhase::ready);
  EXPECT_EQ(house.ask("GET", "/health")->status(), 200);
  house.model.set_open(false);
  const auto reply = house.ask("POST", "/v1/completions", R"({"prompt": "x", "max_tokens": 2, "ignore_eos": true})");
  std::this_thread::sleep_for(std::chrono::milliseconds(600));
  EXPECT_EQ(house.ask("GET", "/health")->status(), 503);  // answered though the engine is not
  EXPECT_EQ(house.ask("GET", "/ready")->status(), 200);
  house.model.set_open(true);
  EXPECT_EQ(reply->status(), 200);
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_EQ(house.ask("GET", "/health")->status(), 200);
}

TEST(Health, AProbeThatGeneratesIsAnsweredInTime) {
  House house;
  EXPECT_EQ(house.ask("GET", "/health_generate")->status(), 503);  // starting
  house.api.set_phase(ApiPhase::ready);
  EXPECT_EQ(house.ask("GET", "/health_generate")->status(), 200);
  std::this_thread::sleep_for(std::chrono::milliseconds(100));  // the step shows in the figures after its token
  const auto steps = [&] { return house.engine.stats().steps; };
  const auto before = steps();
  EXPECT_EQ(house.ask("GET", "/health_generate")->status(), 200);  // there was a token just now
  EXPECT_EQ(steps(), before);
  std::this_thread::sleep_for(std::chrono::milliseconds(1100));
  house.model.set_open(false);
  EXPECT_EQ(house.ask("GET", "/health_generate")->status(std::chrono::seconds(5)), 503);  // no token within stuck_seconds
  house.model.set_open(true);
  EXPECT_TRUE(house.engine.drain(5));
  EXPECT_EQ(house.engine.stats().running + house.engine.stats().queued, 0);
}

TEST(Health, FollowsThePhasesOfTheServer) {
  House house;
  const std::string body = R"({"prompt": "x", "max_tokens": 1})";
  EXPECT_EQ(house.ask("POST", "/v1/completions", body)->status(), 503);
  house.api.set_phase(ApiPhase::leaving);
  EXPECT_EQ(house.ask("GET", "/ready")->status(), 503);
  EXPECT_EQ(house.ask("POST", "/v1/completions", body)->status(), 200);
  house.api.set_phase(ApiPhase::draining);
  EXPECT_EQ(house.ask("POST", "/v1/completions", body)->status(), 503);
  EXPECT_EQ(house.ask("POST", "/tokenize", R"({"prompt": "x"})")->status(), 200);
}
}  // namespace
}  // namespace nibble
