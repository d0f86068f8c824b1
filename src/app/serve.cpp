#include "app/serve.h"

#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <mutex>
#include <optional>
#include <random>
#include <thread>

#include "app/crash_dump.h"
#include "app/fault.h"
#include "app/local_server.h"
#include "app/model_loader.h"
#include "app/serve_flags.h"
#include "app/version.h"
#include "app/watchdog.h"
#include "base/clock.h"
#include "base/log.h"
#include "engine/engine.h"
#include "media/resize.h"
#include "server/api.h"
#include "server/http_server.h"
#include "server/http_text.h"
#include "text/chat_template.h"

namespace nibble {
namespace {
constexpr double kLastStepSeconds = 20, kLastBytesSeconds = 5;  // at the end of a shutdown
constexpr double kLastErrorsSeconds = 3;                        // after a failure: for the errors to reach their clients
constexpr int kEngineFailed = -1;                               // in place of a signal
constexpr int kFailedStatus = 1;

LogLevel level_of(const std::string& name) {
  if (name == "debug") return LogLevel::debug;
  if (name == "warning") return LogLevel::warning;
  if (name == "error") return LogLevel::error;
  return name == "critical" ? LogLevel::critical : LogLevel::info;
}

ModelFlags model_flags(const ServeFlags& flags) {
  ModelFlags out;
  out.model_path = flags.text("model-path");
  out.revision = flags.text("revision");
  out.download_dir = flags.text("download-dir");
  out.tokenizer_path = flags.text("tokenizer-path");
  out.device = flags.text("device");
  out.dtype = flags.text("dtype");
  out.load_format = flags.text("load-format");
  out.quantization = flags.text("quantization");
  out.kv_cache_dtype = flags.text("kv-cache-dtype");
  out.activation_quant = flags.text("activation-quant");
  out.override_args = flags.text("json-model-override-args");
  out.threads = static_cast<int>(flags.integer("threads"));
  out.max_total_tokens = flags.integer("max-total-tokens");
  if (!flags.text("mem-fraction-static").empty()) {
    out.mem_fraction = flags.number("mem-fraction-static");
    if (!(out.mem_fraction > 0 && out.mem_fraction < 1)) raise(ErrorCode::invalid_argument, "--mem-fraction-static {}: wanted more than 0 and less than 1", out.mem_fraction);
  }
  out.max_running = static_cast<int32_t>(flags.integer("max-running-requests"));
  out.context_length = static_cast<int32_t>(flags.integer("context-length"));
  SpeculativeFlags& s = out.speculative;
  s.algorithm = flags.text("speculative-algorithm");
  s.draft_model_path = flags.text("speculative-draft-model-path");
  s.draft_quantization = flags.text("speculative-draft-model-quantization");
  s.num_steps = flags.integer("speculative-num-steps");
  s.num_draft_tokens = flags.integer("speculative-num-draft-tokens");
  s.eagle_topk = flags.integer("speculative-eagle-topk");
  s.adaptive = flags.text("speculative-adaptive");
  check_speculative_flags(s);
  out.max_rows = static_cast<int32_t>(flags.integer("chunked-prefill-size") + flags.integer("max-running-requests"));
  // Full rounds for so many sequences; of more, some draft less.
  if (!s.algorithm.empty()) out.max_rows += static_cast<int32_t>(s.num_steps * std::min<int64_t>(flags.integer("max-running-requests"), 48));
  out.random_seed = static_cast<uint64_t>(flags.integer("random-seed"));
  return out;
}

std::vector<std::string> split_names(const std::string& text) {
  std::vector<std::string> names;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(',', at), text.size());
    if (end > at) names.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return names;
}

void set_media_options(const ServeFlags& flags, MediaOptions& media) {
  if (!flags.flag("enable-multimodal")) media.images = media.audio = false;
  media.local_path = flags.text("allowed-local-media-path");
  media.fetch.domains = split_names(flags.text("allowed-media-domains"));
  for (std::string& host : media.fetch.domains) {
    std::transform(host.begin(), host.end(), host.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    if (host.find_first_of("/:@ []") != std::string::npos && host.find("::") == std::string::npos) {
      raise(ErrorCode::invalid_argument, "--allowed-media-domains {}: wanted host names without scheme, port or path", host);
    }
  }
  const int64_t most_mb = flags.integer("media-url-max-file-size-mb");
  if (most_mb < 0 || most_mb > 1 << 20) raise(ErrorCode::invalid_argument, "--media-url-max-file-size-mb {}: wanted 0 (no limit) or more", most_mb);
  media.fetch.max_bytes = most_mb << 20;
  const auto read = [&](const std::string& flag, const char* kind, const char* key, int32_t& value) {
    if (flags.text(flag).empty()) return;
    const auto object = nlohmann::json::parse(flags.text(flag));
    if (!object.contains(kind)) return;
    const auto& at = key ? object[kind].value(key, nlohmann::json(value)) : object[kind];
    if (!at.is_number_integer() || at.get<int64_t>() < 0 || (key && !is_soft_token_budget(at.get<int64_t>()))) {
      raise(ErrorCode::invalid_argument, "--{}: {} of {} must be {}", flag, key ? key : "the limit", kind, key ? "70, 140, 280, 560 or 1120" : "0 or more");
    }
    value = at.get<int32_t>();
  };
  read("limit-mm-data-per-request", "image", nullptr, media.max_images);
  read("limit-mm-data-per-request", "audio", nullptr, media.max_audios);
  read("limit-mm-data-per-request", "video", nullptr, media.max_videos);
  read("mm-process-config", "image", "max_soft_tokens", media.image_budget);
  read("mm-process-config", "video", "max_soft_tokens", media.video_budget);
}

MetricsOptions metrics_options(const ServeFlags& flags) {
  MetricsOptions out{.enabled = !flags.flag("disable-metrics"), .labels = {}, .first_token = flags.numbers("bucket-time-to-first-token"),
                     .token_gap = flags.numbers("bucket-inter-token-latency"), .total = flags.numbers("bucket-e2e-request-latency")};
  if (flags.text("extra-metric-labels").empty()) return out;
  const auto labels = nlohmann::json::parse(flags.text("extra-metric-labels"));
  for (const auto& [name, value] : labels.items()) out.labels[name] = value.is_string() ? value.get<std::string>() : value.dump();
  return out;
}

ApiOptions api_options(const ServeFlags& flags, const LoadedModel& loaded, const Tokenizer& tokenizer, uint64_t seed, RecentRequests* recent) {
  ApiOptions options = api_options_of(loaded, tokenizer);
  const std::string names = flags.text("served-model-name");
  options.served_names = split_names(names.empty() ? flags.text("model-path") : names);
  options.model_path = flags.text("model-path");
  options.api_key = flags.text("api-key");
  options.admin_api_key = flags.text("admin-api-key");
  options.strict_model_name = flags.flag("strict-model-name");
  if (flags.text("sampling-defaults") != "model") options.chat_defaults = {};
  options.reasoning_parser = flags.text("reasoning-parser") != "none";
  options.structured_output = flags.text("grammar-backend") != "none";
  options.max_json_whitespace = flags.flag("constrained-json-disable-any-whitespace") ? 0 : static_cast<int>(flags.integer("constrained-json-max-whitespace-cnt"));
  options.tool_parser = flags.text("tool-call-parser") != "none";
  options.trust_special_tokens_in_text = flags.flag("trust-special-tokens-in-text");
  set_media_options(flags, options.media);
  options.default_template_kwargs = flags.text("default-chat-template-kwargs");
  options.random_seed = seed;
  options.round_metrics = flags.text("per-request-spec-decode-metrics");
  options.root_path = flags.text("root-path");
  while (options.root_path.ends_with('/')) options.root_path.pop_back();
  options.preferred_sampling_params = flags.text("preferred-sampling-params");
  options.reasoning_alias = flags.flag("emit-reasoning-alias");
  options.usage_in_streams = flags.flag("stream-response-default-include-usage");
  options.incremental_generate = flags.flag("incremental-streaming-output");
  options.truncate_prompts = flags.flag("allow-auto-truncate");
  options.metrics = metrics_options(flags);
  options.repetition_guard = flags.flag("repetition-guard");
  options.request_log = {.enabled = flags.flag("log-requests"), .level = static_cast<int>(flags.integer("log-requests-level")), .json = flags.text("log-requests-format") == "json",
                         .targets = split_names(flags.text("log-requests-target")), .recent = recent};
  nlohmann::json info = nlohmann::json::object();
  for (const auto& [name, value] : flags.values) {
    std::string key = name;
    std::replace(key.begin(), key.end(), '-', '_');
    info[key] = name.ends_with("api-key") && !value.empty() ? "***" : value;
  }
  options.server_info = info.dump();
  return options;
}

// One prefill and a decode step, so that the first request finds warm caches.
void warm_up(Engine& engine, const LoadedModel& loaded) {
  auto request = std::make_unique<Request>();
  request->id = "warm-up";
  request->prompt = {loaded.config.bos_token_id};
  request->max_tokens = 2;
  request->sampling.temperature = 0;
  std::mutex mutex;
  std::condition_variable done;
  bool finished = false;
  request->on_token = [&](TokenEvent&& event) {
    if (event.finish == FinishReason::none) return;
    const std::lock_guard lock(mutex);
    finished = true;
    done.notify_all();
  };
  value_or_raise(engine.submit(std::move(request)));
  std::unique_lock lock(mutex);
  done.wait(lock, [&] { return finished; });
}

// Every connection is a file; many systems start programs with a low soft limit.
void allow_many_files() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

// The answer to everything while the model is being loaded.
HttpResponse not_yet(const HttpRequest& request) {
  if (request.path.starts_with("/health") || request.path == "/ready" || request.path == "/ping") return {.status = 503, .body = {}, .content_type = "text/plain; charset=utf-8", .headers = {}};
  return error_response(503, "the server is starting: the model is being loaded", "", "unavailable");
}

// A GPU is idle in small steps; on a CPU long ones hold up the other streams.
constexpr const char *kGpuPrefill = "2048", *kCpuPrefill = "512";

int run(ServeFlags flags) {
  if (flags.integer("chunked-prefill-size") == 0) flags.values["chunked-prefill-size"] = may_use_cuda(model_flags(flags)) && has_cuda_device() ? kGpuPrefill : kCpuPrefill;
  configure_log({.level = level_of(flags.text("log-level")), .utc = flags.flag("log-utc"), .json = flags.text("log-format") == "json", .to_stdout = true});
  // Signals are taken by sigwait below, also in threads started from here on.
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGTERM, SIGINT}) sigaddset(&signals, signal);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGHUP, SIG_IGN);

  std::string given;
  for (const std::string& flag : flags.given) given += " " + flag;
  log_info("nibble {}{}", kVersion, given);
  for (const std::string& line : flags.ignored) log_info("{}", line);

  allow_many_files();
  HttpServer server({.host = flags.text("host"), .port = static_cast<uint16_t>(flags.integer("port")), .num_threads = 2,
                     .max_body_bytes = static_cast<uint64_t>(flags.integer("max-request-body-mb")) << 20, .keep_alive_seconds = static_cast<int>(flags.integer("http-keep-alive-timeout")),
                     .read_seconds = static_cast<int>(flags.integer("http-read-timeout")), .write_seconds = static_cast<int>(flags.integer("http-write-timeout")),
                     .max_connections = static_cast<int>(flags.integer("max-connections")),
                     .allowed_origins = split_names(flags.text("allowed-origins")), .access_log = flags.text("log-level-http").empty() ? LogLevel::debug : level_of(flags.text("log-level-http")),
                     .quiet_paths = split_names(flags.text("uvicorn-access-log-exclude-prefixes"))});
  // From the first moment on someone answers, so that probes need not wait for the model.
  static std::atomic<Api*> serving{nullptr};
  server.serve([](const HttpRequest& request, const std::shared_ptr<Exchange>& exchange) {
    if (Api* api = serving.load()) return api->handle(request, exchange);
    exchange->respond(not_yet(request));
  });
  log_info("listening on {}:{}", flags.text("host"), server.port());

  static std::atomic<int> signal{0};
  std::thread([signals] {
    int taken = 0;
    sigwait(&signals, &taken);
    if (!serving.load()) {
      log_info("signal {} while starting: the server ends", taken);
      std::_Exit(0);
    }
    signal = taken;
    signal.notify_all();
    sigwait(&signals, &taken);
    std::_Exit(128 + taken);
  }).detach();

  const std::string dump_folder = flags.text("crash-dump-folder");
  std::optional<CrashDump> crash_dump;
  if (!dump_folder.empty()) crash_dump.emplace(dump_folder, kVersion);
  const auto dump = [&](const std::string& reason) {
    if (const std::string path = crash_dump ? crash_dump->write(reason) : ""; !path.empty()) log_error("the requests of the last minutes are in {}", path);
  };

  const auto loaded = load_model(model_flags(flags));
  const Fault fault = parse_fault(flags.text("inject-fault"));
  std::unique_ptr<ForwardModel> faulty;
  if (fault.kind != Fault::Kind::none) faulty = with_fault(*loaded->model, fault);
  const Tokenizer tokenizer = Tokenizer::load(loaded->tokenizer_folder);
  auto chat_template = ChatTemplate::load({loaded->tokenizer_folder, flags.text("chat-template"), flags.text("hf-chat-template-name")});
  if (!chat_template && chat_template.error().code != ErrorCode::not_found) throw chat_template.error();
  if (!chat_template) log_warning("{}", chat_template.error().message);

  const uint64_t seed = flags.text("random-seed").empty() ? uint64_t{std::random_device{}()} << 32 | std::random_device{}() : static_cast<uint64_t>(flags.integer("random-seed"));
  log_info("random seed {}", seed);
  Engine engine(faulty ? *faulty : *loaded->model, loaded->engine_options({.max_running_requests = static_cast<int32_t>(flags.integer("max-running-requests")), .max_queued_requests = static_cast<int32_t>(flags.integer("max-queued-requests")),
                                 .chunked_prefill_tokens = static_cast<int32_t>(flags.integer("chunked-prefill-size")), .prefix_cache = !flags.flag("disable-radix-cache"),
                                 .schedule_policy = flags.text("schedule-policy"),
                                 .decode_log_interval = static_cast<int32_t>(flags.integer("decode-log-interval")),
                                 .on_failure = [&](const std::string& why) {
                                   dump(why);
                                   signal = kEngineFailed;
                                   signal.notify_all();
                                 }}));
  Api api(api_options(flags, *loaded, tokenizer, seed, crash_dump ? &crash_dump->requests() : nullptr), engine, tokenizer, chat_template ? &*chat_template : nullptr);
  const Watchdog watchdog(engine, flags.number("soft-watchdog-timeout"), flags.number("watchdog-timeout"), dump);
  if (!flags.flag("skip-server-warmup")) warm_up(engine, *loaded);
  if (signal == kEngineFailed) raise(ErrorCode::internal, "the engine failed at its first steps; the lines above say why");
  api.set_phase(ApiPhase::ready);
  serving = &api;
  log_info("The server is fired up and ready to roll!");

  signal.wait(0);
  if (signal == kEngineFailed) {
    api.set_phase(ApiPhase::draining);
    server.drain(kLastErrorsSeconds);
    log_error("the process ends with status {}: the engine has failed", kFailedStatus);
    std::_Exit(kFailedStatus);  // what a lost device holds cannot be given back
  }
  const int64_t delay = flags.integer("shutdown-delay"), timeout = flags.integer("shutdown-timeout");
  log_info("signal {}: finishing running requests, at most {} s", signal.load(), delay + timeout);
  api.set_phase(ApiPhase::leaving);
  server.close_after_replies();
  std::this_thread::sleep_for(std::chrono::seconds(delay));
  api.set_phase(ApiPhase::draining);
  const bool all_done = engine.drain(static_cast<double>(timeout));
  if (!all_done) log_warning("{} requests were not done in time and are cut off (--shutdown-timeout)", engine.stats().running + engine.stats().queued);
  engine.cancel_all();
  // What is cancelled ends with the step under way, which may be a long one.
  if (!engine.drain(kLastStepSeconds)) log_error("the engine's last step does not end; its requests are cut off without an answer");
  if (!server.drain(kLastBytesSeconds)) log_warning("some replies were not read by their clients");
  server.stop();
  log_info("the server has ended");
  if (engine.stats().failed) std::_Exit(kFailedStatus);
  return 0;
}
}  // namespace

int run_serve(std::span<const std::string> args, bool parse_only) {
  std::vector<std::string> problems;
  const ServeFlags flags = parse_serve_flags(args, problems);
  if (flags.help) {
    std::fputs(serve_help(flags.help_all).c_str(), stdout);
    return 0;
  }
  if (flags.version) {
    std::printf("nibble %s\n", kVersion);
    return 0;
  }
  try {
    model_flags(flags);
    parse_fault(flags.text("inject-fault"));
  } catch (const Error& error) {
    problems.push_back("error: " + error.message);
  }
  if (!problems.empty()) {
    for (const std::string& line : problems) std::fprintf(stderr, "%s\n", line.c_str());
    return 2;
  }
  return parse_only ? 0 : run(flags);
}
}  // namespace nibble
