// What HTTP adds to a token: from the moment the engine hands it over to the moment its event is read by the client, over loopback, with streams of
// /v1/chat/completions side by side and a model that computes nothing and gives every stream a token each 10 ms. Detokenizing, parsing, JSON, both sides of TCP and the
// client's recv are inside; what the client would do with the text is not.
//   nibble_server_bench --benchmark_filter=http_path     counters p50_us, p99_us, max_us of all tokens but each stream's first 20; the argument is the number of streams
// server_cpu_us and client_cpu_us are the processor time of a token, the kernel's in it: the engine's and the connections' threads, and the client's.
#include <arpa/inet.h>
#include <benchmark/benchmark.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "server/api.h"
#include "server/forwarding_exchange.h"
#include "server/http_server.h"

namespace nibble {
namespace {
constexpr int kWords = 50;
constexpr auto kPace = std::chrono::milliseconds(10);
constexpr int kTokens = 400;  // of each stream

// Every row of every step chooses the next word, kPace after the last.
class PacedModel final : public ForwardModel {
 public:
  PacedModel(int32_t vocab, std::vector<int32_t> words) : vocab_(vocab), words_(std::move(words)) {}
  int32_t vocab_size() const override { return vocab_; }
  const KvGeometry& kv_geometry() const override { return geometry_; }
  int32_t max_rows() const override { return 1024; }
  // The logits stay with the model, as on a GPU: looking through them is no part of the way.
  int32_t kept_logit_rows() const override { return max_rows(); }
  void forward(const Step&, float*) override {
    word_ = words_[static_cast<size_t>(steps_++ % kWords)];
    std::this_thread::sleep_until(next_);
    next_ = std::max(next_, std::chrono::steady_clock::now() - kPace) + kPace;
  }
  void candidates(std::span<const LogitEdit>, const AllowedIds&, std::span<const float> temperatures, int32_t, Candidate* candidates, RowSummary* summaries) override {
    for (size_t row = 0; row < temperatures.size(); ++row) {
      candidates[row * kMaxCandidates] = {.x = 1, .id = word_};
      summaries[row] = {.highest = 1, .sum = 1};
    }
  }

 private:
  int32_t vocab_;
  std::vector<int32_t> words_;
  int32_t word_ = 0;
  int64_t steps_ = 0;
  std::chrono::steady_clock::time_point next_ = std::chrono::steady_clock::now();
  KvGeometry geometry_{.page_tokens = 16, .num_full_pages = 8192, .num_sliding_pages = 8192, .sliding_window = 64, .full_page_bytes = 1, .sliding_page_bytes = 1};
};

// Notes when the engine hands a token over: post() is called on its thread, once for each.
class StampedExchange final : public ForwardingExchange {
 public:
  StampedExchange(ExchangePtr inner, std::vector<double>& stamps) : ForwardingExchange(std::move(inner)), stamps_(stamps) {}
  void post(std::function<void()> work) override {
    stamps_.push_back(monotonic_seconds());  // reserved beforehand; read by the client only after it has what follows from it
    ForwardingExchange::post(std::move(work));
  }

 private:
  std::vector<double>& stamps_;
};

int connect_and_ask(uint16_t port, size_t stream) {
  const std::string body = R"({"messages": [{"role": "user", "content": "go"}], "temperature": 0, "stream": true, "ignore_eos": true, "max_tokens": )" + std::to_string(kTokens) + "}";
  const std::string text = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-Stream: " + std::to_string(stream) + "\r\nContent-Type: application/json\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const int on = 1;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  const bool good = ::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0 && ::send(fd, text.data(), text.size(), 0) == static_cast<ssize_t>(text.size());
  if (!good) raise(ErrorCode::unavailable, "the bench cannot reach its own server");
  return fd;
}

double cpu_seconds(clockid_t clock) {
  timespec time{};
  ::clock_gettime(clock, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

// What came over one connection, looked at only when all is over: a client that reads on another machine takes no time of the server's.
struct Received {
  std::string text;  // of `size` bytes that came and room for more, in memory that is there already
  size_t size = 0;
  std::vector<std::pair<size_t, double>> arrivals;  // size of text after a read, and when
};

// Microseconds from the hand-over of each token to the read that completed its event. The first tokens belong to the crowd's arrival: prompts are computed in between.
void add_delays(const Received& received, const std::vector<double>& stamps, const std::vector<std::string>& words, std::vector<double>& delays_us) {
  constexpr size_t kFirstTokens = 20;
  constexpr std::string_view kKey = "\"content\":\"";
  const std::string_view text = std::string_view(received.text).substr(0, received.size);
  auto arrival = received.arrivals.begin();
  size_t token = 0;
  for (size_t begin = 0, end; (end = text.find("\n\n", begin)) != std::string_view::npos; begin = end + 2) {
    const std::string_view event = text.substr(begin, end - begin);
    const size_t at = event.find(kKey);
    if (at == std::string_view::npos) continue;
    const std::string_view content = event.substr(at + kKey.size(), event.find('"', at + kKey.size()) - at - kKey.size());
    if (std::find(words.begin(), words.end(), content) == words.end()) continue;
    while (arrival->first < end + 2) ++arrival;
    if (token >= kFirstTokens) delays_us.push_back((arrival->second - stamps.at(token)) * 1e6);
    ++token;
  }
  if (token < kTokens - 2) raise(ErrorCode::internal, "a stream had {} words, wanted {}", token, kTokens);
}

void http_path(benchmark::State& state) {
  configure_log({.level = LogLevel::error});
  const Tokenizer tokenizer = Tokenizer::load(std::filesystem::path(NIBBLE_REPO_DIR) / "models/demo");
  const auto chat_template = ChatTemplate::load({.folder = std::filesystem::path(NIBBLE_REPO_DIR) / "models/demo", .override_text = {}, .name = {}});
  // Words of letters only, so that they stand in JSON as they are and in text as they come.
  std::vector<int32_t> words;
  std::vector<std::string> texts;
  for (int32_t id = 300; id < tokenizer.vocab_size() && words.size() < kWords; ++id) {
    const std::string text = tokenizer.token_bytes(id);
    if (text.size() < 3 || !std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::islower(c); })) continue;
    words.push_back(id);
    texts.push_back(text);
  }
  if (words.size() < kWords) raise(ErrorCode::internal, "the vocabulary has too few plain words");
  PacedModel model(tokenizer.vocab_size(), words);
  Engine engine(model, EngineOptions{.chunked_prefill_tokens = 512, .decode_log_interval = 0});
  ApiOptions options;
  options.served_names = {"demo"};
  options.context_length = 4096;
  Api api(options, engine, tokenizer, &*chat_template);
  api.set_phase(ApiPhase::ready);
  HttpServer server({.host = "127.0.0.1", .port = 0});
  std::vector<std::vector<double>> stamps(static_cast<size_t>(state.range(0)));
  for (auto& of_stream : stamps) of_stream.reserve(kTokens + 1);
  server.serve([&](const HttpRequest& request, const ExchangePtr& exchange) {
    api.handle(request, std::make_shared<StampedExchange>(exchange, stamps[static_cast<size_t>(std::stoi(request.header("x-stream")))]));
  });

  std::vector<double> delays_us;
  double server_cpu = 0, client_cpu = 0;
  for (auto _ : state) {
    const int poll = ::epoll_create1(EPOLL_CLOEXEC);
    std::vector<Received> received(stamps.size());
    std::vector<int> fds;
    for (size_t i = 0; i < received.size(); ++i) {
      received[i].text.resize(kTokens * 512);
      received[i].arrivals.reserve(2 * kTokens);
      fds.push_back(connect_and_ask(server.port(), i));
      epoll_event event{.events = EPOLLIN, .data = {.u64 = i}};
      ::epoll_ctl(poll, EPOLL_CTL_ADD, fds.back(), &event);
    }
    const double cpu_before = cpu_seconds(CLOCK_PROCESS_CPUTIME_ID), client_cpu_before = cpu_seconds(CLOCK_THREAD_CPUTIME_ID);
    size_t open = received.size();
    std::array<epoll_event, 64> events;
    while (open > 0) {
      const int ready = ::epoll_wait(poll, events.data(), static_cast<int>(events.size()), 20000);
      if (ready <= 0) raise(ErrorCode::internal, "a stream is stuck");
      for (int e = 0; e < ready; ++e) {
        const size_t i = events[static_cast<size_t>(e)].data.u64;
        Received& r = received[i];
        const ssize_t size = ::recv(fds[i], r.text.data() + r.size, r.text.size() - r.size, 0);
        if (size <= 0) raise(ErrorCode::internal, "a stream broke off");
        r.size += static_cast<size_t>(size);
        r.arrivals.push_back({r.size, monotonic_seconds()});
        open -= std::string_view(r.text).substr(0, r.size).ends_with("\r\n0\r\n\r\n");
      }
    }
    client_cpu = cpu_seconds(CLOCK_THREAD_CPUTIME_ID) - client_cpu_before;
    server_cpu = cpu_seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu_before - client_cpu;
    for (const int fd : fds) ::close(fd);
    ::close(poll);
    for (size_t i = 0; i < received.size(); ++i) add_delays(received[i], stamps[i], texts, delays_us);
  }
  std::sort(delays_us.begin(), delays_us.end());
  const auto at = [&](double share) { return delays_us.empty() ? 0.0 : delays_us[std::min(delays_us.size() - 1, static_cast<size_t>(share * static_cast<double>(delays_us.size())))]; };
  state.counters["tokens"] = static_cast<double>(delays_us.size());
  state.counters["p50_us"] = at(0.5);
  state.counters["p99_us"] = at(0.99);
  state.counters["max_us"] = at(1.0);
  state.counters["server_cpu_us"] = server_cpu * 1e6 / static_cast<double>(stamps.size() * kTokens);
  state.counters["client_cpu_us"] = client_cpu * 1e6 / static_cast<double>(stamps.size() * kTokens);
  server.stop();
}
BENCHMARK(http_path)->Arg(1)->Arg(16)->Arg(64)->Iterations(1)->UseRealTime()->Unit(benchmark::kMillisecond);
}  // namespace
}  // namespace nibble
