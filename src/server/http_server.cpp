#include "server/http_server.h"

#include <boost/asio.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <algorithm>
#include <atomic>
#include <optional>
#include <thread>

#include "base/clock.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/log.h"
#include "server/http_text.h"
#include "server/outbox.h"

namespace nibble {
namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using asio::ip::tcp;

namespace {
constexpr size_t kMaxHeaderBytes = 64 << 10;
constexpr size_t kFirstRead = 4096;
constexpr auto kKeepAliveComment = std::chrono::seconds(15);
// Between looks whether a silent client is still there. Where events went out meanwhile the next of them will tell.
constexpr auto kLook = std::chrono::milliseconds(100), kProbe = std::chrono::milliseconds(50), kLookAtFlow = std::chrono::milliseconds(1000);

constexpr auto use_result = asio::as_tuple(asio::use_awaitable);

class AsioLoop final : public EventLoop {
 public:
  ~AsioLoop() override {
    stop();
    forget();
  }
  void start() {
    thread_ = std::thread([this] { context.run(); });
  }
  void stop() {
    context.stop();
    if (thread_.joinable()) thread_.join();
  }
  void after(double seconds, std::function<void()> work) override {
    const auto timer = std::make_shared<asio::steady_timer>(context, std::chrono::duration_cast<std::chrono::steady_clock::duration>(std::chrono::duration<double>(seconds)));
    timer->async_wait([timer, work = std::move(work)](boost::system::error_code error) {
      if (!error) work();
    });
  }
  bool is_here() override { return context.get_executor().running_in_this_thread(); }

  std::atomic<int> connections{0};
  asio::io_context context{1};

 private:
  void call_drain_soon() override {
    asio::post(context, [this] { drain(); });
  }

  asio::executor_work_guard<asio::io_context::executor_type> stays_{context.get_executor()};  // without connections too
  std::thread thread_;
};

// Of all connections of a server.
struct Traffic {
  std::atomic<int> connections{0};
  std::atomic<int> exchanges{0};      // requests whose replies are not sent yet
  std::atomic<bool> closing{false};   // every reply is its connection's last
};

class Connection final : public Recipient {
 public:
  Connection(tcp::socket socket, AsioLoop& loop, const HttpServerOptions& options, const HttpHandler& handler, Traffic& traffic)
      : stream_(std::move(socket)), loop_(loop), wake_(loop.context), options_(options), handler_(handler), traffic_(traffic) {
    ++traffic_.connections;
    ++loop_.connections;
  }
  ~Connection() override {
    --traffic_.connections;
    --loop_.connections;
  }

  size_t send_now(std::string_view bytes) override {
    boost::system::error_code error;
    const size_t sent = stream_.socket().write_some(asio::buffer(bytes), error);
    if (error) return 0;  // the coroutine's own write will find out
    last_sent_ = std::chrono::steady_clock::now();
    return sent;
  }
  void wake() override { wake_.cancel(); }

  asio::awaitable<void> run() {
    boost::system::error_code ignored;
    stream_.socket().set_option(tcp::no_delay(true), ignored);
    stream_.socket().non_blocking(true, ignored);
    while (co_await one_exchange()) {
    }
    stream_.socket().shutdown(tcp::socket::shutdown_send, ignored);
  }

 private:
  asio::awaitable<bool> one_exchange() {
    http::request_parser<http::string_body> parser;
    parser.header_limit(kMaxHeaderBytes);
    parser.body_limit(options_.max_body_bytes);
    if (buffer_.size() == 0) {
      stream_.expires_after(std::chrono::seconds(options_.keep_alive_seconds));
      auto [error, size] = co_await stream_.async_read_some(buffer_.prepare(kFirstRead), use_result);
      if (error) co_return false;
      buffer_.commit(size);
    }
    stream_.expires_after(std::chrono::seconds(options_.read_seconds));
    auto [header_error, header_size] = co_await http::async_read_header(stream_, buffer_, parser, use_result);
    if (header_error) co_return co_await refuse(header_error);
    if (beast::iequals(parser.get()[http::field::expect], "100-continue")) {
      constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
      auto [error, sent] = co_await asio::async_write(stream_, asio::buffer(kContinue), use_result);
      if (error) co_return false;
    }
    auto [body_error, body_size] = co_await http::async_read(stream_, buffer_, parser, use_result);
    if (body_error) co_return co_await refuse(body_error);
    stream_.expires_never();

    const bool keep_alive = parser.get().keep_alive() && !traffic_.closing;
    const Busy busy(traffic_);
    const HttpRequest request = translate(parser.release());
    const auto outbox = std::make_shared<Outbox>(loop_);
    handler_(request, outbox);
    const bool alive = co_await deliver(outbox, request, keep_alive);
    alive ? outbox->settle() : outbox->disconnected();
    co_return alive && keep_alive;
  }

  asio::awaitable<bool> refuse(boost::system::error_code error) {
    int status = 0;
    std::string_view message, code;
    if (error == http::error::header_limit) {
      status = 431, message = "the request's header is larger than 64 KiB", code = "request_too_large";
    } else if (error == http::error::body_limit) {
      status = 413, message = "the request's body is too large (--max-request-body-mb)", code = "request_too_large";
    } else if (error.category() == make_error_code(http::error::bad_method).category() && error != http::error::end_of_stream && error != http::error::partial_message) {
      status = 400, message = "not a valid HTTP request", code = "invalid_value";
    }
    if (status != 0) {
      const std::string text = render_response(error_response(status, message, "", code), "", "", false, false);
      co_await asio::async_write(stream_, asio::buffer(text), use_result);
      // Let the client read the answer before the unread body makes the kernel reset the connection.
      boost::system::error_code ignored;
      stream_.socket().shutdown(tcp::socket::shutdown_send, ignored);
      stream_.expires_after(std::chrono::seconds(2));
      std::array<char, 4096> rest;
      for (int i = 0; i < 4096; ++i) {
        auto [read_error, n] = co_await stream_.async_read_some(asio::buffer(rest), use_result);
        if (read_error) break;
      }
    }
    co_return false;
  }

  struct Busy {
    explicit Busy(Traffic& t) : traffic(t) { ++traffic.exchanges; }
    ~Busy() { --traffic.exchanges; }
    Traffic& traffic;
  };

  HttpRequest translate(http::request<http::string_body> message) {
    HttpRequest out;
    out.method = std::string(message.method_string());
    split_target(std::string(message.target()), out);
    for (const auto& field : message) {
      std::string name(field.name_string());
      for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
      out.headers[name] = std::string(field.value());
    }
    out.body = std::move(message.body());
    boost::system::error_code error;
    const auto endpoint = stream_.socket().remote_endpoint(error);
    if (!error) out.peer = endpoint.address().to_string(), out.peer_port = endpoint.port();
    out.id = request_id(out.header("x-request-id"));
    return out;
  }

  // "*", the request's origin if it is one of those allowed, or nothing.
  std::string allowed_origin(const HttpRequest& request) const {
    const std::string origin = request.header("origin");
    for (const std::string& allowed : options_.allowed_origins) {
      if (allowed == "*" || allowed == origin) return allowed;
    }
    return "";
  }

  void note_access(const HttpRequest& request, int status) const {
    if (options_.access_log > LogLevel::info) return;
    for (const std::string& prefix : options_.quiet_paths) {
      if (request.path.starts_with(prefix)) return;
    }
    log_access(request, status);
  }

  // Sends what the route puts into the outbox until it is finished; false when the connection is of no more use.
  asio::awaitable<bool> deliver(const std::shared_ptr<Outbox>& outbox, const HttpRequest& request, bool keep_alive) {
    bool header_sent = false, eof_seen = false, flows = false;
    last_sent_ = std::chrono::steady_clock::now();
    while (true) {
      Outbox::Batch batch = outbox->take();
      std::string text;
      if (batch.response) {
        text = render_response(*batch.response, request.id, allowed_origin(request), keep_alive, request.method == "HEAD");
        note_access(request, batch.response->status);
      } else if (batch.streaming) {
        if (!header_sent) {
          text = render_stream_header(request.id, allowed_origin(request), keep_alive);
          header_sent = true;
          note_access(request, 200);
        }
        text += batch.events;
        if (batch.finished) text += "0\r\n\r\n";
      }
      if (!text.empty()) {
        if (!co_await write(text)) co_return false;
        last_sent_ = std::chrono::steady_clock::now();
      }
      if (batch.gone) co_return false;
      if (batch.finished) co_return true;
      if (!text.empty()) continue;  // what came while this was written woke nobody

      // Wait for more, looking now and then whether the client is still there.
      const auto began = std::chrono::steady_clock::now();
      outbox->await(this, header_sent);
      wake_.expires_after(eof_seen ? kProbe : flows ? kLookAtFlow : kLook);
      const auto [woken] = co_await wake_.async_wait(use_result);
      outbox->awake();
      flows = last_sent_ > began;
      if (woken == asio::error::operation_aborted) continue;  // there is something to send, which tells as well whether the client is there
      if (flows) continue;                                    // so did what was sent meanwhile
      const bool silent_long = header_sent && std::chrono::steady_clock::now() - last_sent_ > kKeepAliveComment;
      if (!eof_seen) eof_seen = at_end_of_input();
      if (broken()) co_return false;
      if (silent_long || (eof_seen && !header_sent)) {
        // A client that closed only its sending side is still there; one that is gone answers the second probe with a reset.
        const std::string probe = header_sent ? chunk(": keep-alive\n\n") : "HTTP/1.1 100 Continue\r\n\r\n";
        auto [error, sent] = co_await asio::async_write(stream_, asio::buffer(probe), use_result);
        if (error) co_return false;
        last_sent_ = std::chrono::steady_clock::now();
      }
    }
  }

  // Mostly the kernel takes it all at once: no timer, no second turn of the coroutine.
  asio::awaitable<bool> write(std::string_view text) {
    boost::system::error_code error;
    const size_t taken = stream_.socket().write_some(asio::buffer(text), error);
    if (error && error != asio::error::would_block && error != asio::error::try_again) co_return false;
    if (!error && taken == text.size()) co_return true;
    stream_.expires_after(std::chrono::seconds(options_.write_seconds));
    auto [failed, sent] = co_await asio::async_write(stream_, asio::buffer(text.substr(error ? 0 : taken)), use_result);
    stream_.expires_never();
    co_return !failed;
  }

  bool at_end_of_input() {
    char byte;
    const ssize_t n = ::recv(stream_.socket().native_handle(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return n == 0;
  }
  bool broken() {
    int error = 0;
    socklen_t size = sizeof error;
    ::getsockopt(stream_.socket().native_handle(), SOL_SOCKET, SO_ERROR, &error, &size);
    char byte;
    return error != 0 || (::recv(stream_.socket().native_handle(), &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno != EAGAIN && errno != EWOULDBLOCK);
  }

  beast::tcp_stream stream_;
  beast::flat_buffer buffer_;
  AsioLoop& loop_;
  asio::steady_timer wake_;
  const HttpServerOptions& options_;
  const HttpHandler& handler_;
  Traffic& traffic_;
  std::chrono::steady_clock::time_point last_sent_;  // of the exchange at hand
};

// Too many connections: a short answer, a moment to read it, and goodbye.
asio::awaitable<void> turn_away(tcp::socket socket, int max_connections) {
  beast::tcp_stream stream(std::move(socket));
  stream.expires_after(std::chrono::seconds(2));
  HttpResponse response = error_response(503, fmt::format("{} connections are open, more are not taken (--max-connections)", max_connections), "", "too_many_connections");
  const std::string text = render_response(response, "", "", false, false);
  co_await asio::async_write(stream, asio::buffer(text), use_result);
  boost::system::error_code ignored;
  stream.socket().shutdown(tcp::socket::shutdown_send, ignored);
  std::array<char, 4096> rest;
  for (int i = 0; i < 16; ++i) {
    auto [error, n] = co_await stream.async_read_some(asio::buffer(rest), use_result);
    if (error) break;
  }
}
}  // namespace

struct HttpServer::Impl {
  HttpServerOptions options;
  HttpHandler handler;
  Traffic traffic;  // outlives the loops, whose end ends the connections
  std::vector<std::unique_ptr<AsioLoop>> loops;
  std::optional<tcp::acceptor> acceptor;  // the first loop's
  double told_full = -1e9;

  explicit Impl(const HttpServerOptions& o) : options(o) {
    for (int i = 0; i < std::max(options.num_threads, 1); ++i) loops.push_back(std::make_unique<AsioLoop>());
    acceptor.emplace(loops.front()->context);
  }

  asio::awaitable<void> accept_loop() {
    while (acceptor->is_open()) {
      AsioLoop& loop = **std::min_element(loops.begin(), loops.end(), [](const auto& a, const auto& b) { return a->connections < b->connections; });
      auto [error, socket] = co_await acceptor->async_accept(loop.context, use_result);
      if (error == asio::error::operation_aborted) co_return;
      if (error) {  // no file left, most likely: others must end first
        asio::steady_timer pause(loops.front()->context, std::chrono::milliseconds(50));
        co_await pause.async_wait(use_result);
        continue;
      }
      if (traffic.connections >= options.max_connections) {
        if (monotonic_seconds() - std::exchange(told_full, monotonic_seconds()) > 60) log_warning("{} connections are open, more are turned away (--max-connections)", options.max_connections);
        asio::co_spawn(loop.context, turn_away(std::move(socket), options.max_connections), asio::detached);
        continue;
      }
      const auto connection = std::make_shared<Connection>(std::move(socket), loop, options, handler, traffic);
      asio::co_spawn(loop.context, [connection] { return connection->run(); }, asio::detached);
    }
  }
};

HttpServer::HttpServer(const HttpServerOptions& options) : impl_(std::make_unique<Impl>(options)) {
  boost::system::error_code error;
  const auto address = asio::ip::make_address(options.host == "localhost" ? "127.0.0.1" : options.host, error);
  if (error) raise(ErrorCode::invalid_argument, "--host {}: not an IP address", options.host);
  const tcp::endpoint endpoint(address, options.port);
  impl_->acceptor->open(endpoint.protocol());
  impl_->acceptor->set_option(tcp::acceptor::reuse_address(true));
  if (address.is_v6()) impl_->acceptor->set_option(asio::ip::v6_only(false), error);
  impl_->acceptor->bind(endpoint, error);
  if (!error) impl_->acceptor->listen(1024, error);
  if (error) raise(ErrorCode::unavailable, "cannot listen on {}:{}: {}; choose another --port, or 0 for any free one", options.host, options.port, error.message());
}

HttpServer::~HttpServer() { stop(); }

uint16_t HttpServer::port() const { return impl_->acceptor->local_endpoint().port(); }

void HttpServer::serve(HttpHandler handler) {
  impl_->handler = std::move(handler);
  asio::co_spawn(impl_->loops.front()->context, impl_->accept_loop(), asio::detached);
  for (const auto& loop : impl_->loops) loop->start();
}

void HttpServer::close_after_replies() { impl_->traffic.closing = true; }

bool HttpServer::drain(double seconds) {
  close_after_replies();
  asio::post(impl_->loops.front()->context, [this] {
    boost::system::error_code ignored;
    impl_->acceptor->close(ignored);
  });
  const double end = monotonic_seconds() + seconds;
  while (impl_->traffic.exchanges > 0 && monotonic_seconds() < end) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  return impl_->traffic.exchanges == 0;
}

void HttpServer::stop() {
  if (!impl_) return;
  for (const auto& loop : impl_->loops) loop->stop();
}
}  // namespace nibble
