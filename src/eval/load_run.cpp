#include "eval/load_run.h"

#include <fmt/format.h>
#include <sys/resource.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/rng.h"

namespace nibble {
namespace {
using Json = nlohmann::ordered_json;

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) { return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec); };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

class LoadRun {
 public:
  LoadRun(Transport& transport, const Workload& workload, size_t first, size_t count, const LoadPlan& plan, const LoadCallbacks& callbacks)
      : transport_(transport), workload_(workload), next_(first), end_(first + count), planned_(count), plan_(plan), callbacks_(callbacks) {}

  LoadResult run() {
    const double cpu = cpu_seconds();
    result_.began_ns = transport_.now_ns();
    if (plan_.rate > 0) {
      arrivals();
    } else {
      for (int i = 0; i < plan_.concurrency && next_ < end_; ++i) next_prompt();
    }
    transport_.run([this] {
      if (!result_.interrupted && callbacks_.stopped && callbacks_.stopped()) {
        result_.interrupted = true;
        next_ = end_;
        transport_.cancel_all();
      }
    });
    result_.ended_ns = transport_.now_ns();
    result_.cpu_seconds = cpu_seconds() - cpu;
    return std::move(result_);
  }

 private:
  struct Live {
    const WorkloadPrompt* prompt;
    size_t index, turn = 0, record = 0;
    std::vector<std::pair<std::string, std::string>> history;  // role, content
    ReplyStream stream;
  };

  // Gaps are -ln(1 - u) / rate.
  void arrivals() {
    double at = 0;
    const size_t first = next_;
    for (size_t i = first; i < end_; ++i) {
      if (i > first) {
        const PhiloxCounter r = philox4x32({static_cast<uint32_t>(i), 0, 0x7061u, 0}, plan_.seed);
        at += -std::log1p(-uniform_double(r[0], r[1])) / plan_.rate;
      }
      transport_.at(result_.began_ns + static_cast<int64_t>(at * 1e9), [this] { next_prompt(); });
    }
    result_.offered_rate = at > 0 ? static_cast<double>(planned_ - 1) / at : 0;
  }

  void next_prompt() {
    if (next_ >= end_) return;
    auto live = std::make_shared<Live>();
    live->index = next_;
    live->prompt = &workload_.prompts[next_++];
    send(live);
  }

  void send(const std::shared_ptr<Live>& live) {
    const WorkloadPrompt& p = *live->prompt;
    live->stream = ReplyStream();
    live->record = result_.records.size();
    RequestRecord& record = result_.records.emplace_back();
    record.id = live->turn == 0 ? p.id : fmt::format("{}#{}", p.id, live->turn + 1);
    record.category = p.category;
    if (!p.ids.empty()) {
      record.isl = static_cast<int64_t>(p.ids.size());
    } else {
      live->history.emplace_back("user", p.turns[live->turn]);
      if (callbacks_.count_tokens) {
        record.isl = p.system.empty() ? 0 : callbacks_.count_tokens(p.system);
        for (const auto& [role, text] : live->history) record.isl += callbacks_.count_tokens(text);
      }
    }
    ++in_flight_;
    result_.max_in_flight = std::max(result_.max_in_flight, in_flight_);
    transport_.start({.target = p.ids.empty() ? "/v1/chat/completions" : "/v1/completions",
                      .body = request_body(p, live->history, plan_, live->index),
                      .on_body = [live](std::string_view bytes, int64_t now) { live->stream.push(bytes, now); },
                      .on_done = [this, live](HttpOutcome&& outcome) { finish(live, std::move(outcome)); }});
  }

  void finish(const std::shared_ptr<Live>& live, HttpOutcome&& outcome) {
    --in_flight_;
    ReplyStream& stream = live->stream;
    RequestRecord& record = result_.records[live->record];
    record.t0_ns = outcome.start_ns;
    record.end_ns = outcome.end_ns;
    record.connect_ns = outcome.connect_ns;
    record.status = outcome.status;
    record.error = !outcome.error.empty() ? outcome.error : stream.error;
    if (record.error.empty() && outcome.status != 200) record.error = fmt::format("HTTP {}: {}", outcome.status, outcome.body.substr(0, 300));
    if (record.error.empty() && !stream.done) record.error = "the stream ended without [DONE]";
    record.chunk_ns = std::move(stream.chunk_ns);
    record.first_content_ns = stream.first_content_ns;
    record.first_chunk_tokens = stream.first_chunk_tokens;
    record.isl_rendered = stream.prompt_tokens.value_or(-1);
    record.osl_server = stream.completion_tokens.value_or(-1);
    if (callbacks_.count_tokens && record.osl_server < 0) record.osl_client = callbacks_.count_tokens(stream.reasoning + stream.content);
    record.finish_reason = stream.finish_reason;
    record.spec = stream.speculation;
    record.text = stream.content;
    const bool good = record.ok();
    if (callbacks_.on_record) callbacks_.on_record(record, ++done_, planned_);
    if (plan_.multi_turn && good && live->turn + 1 < live->prompt->turns.size() && !result_.interrupted) {
      live->history.emplace_back("assistant", record.text);
      ++live->turn;
      return send(live);
    }
    if (plan_.rate <= 0) next_prompt();
  }

  Transport& transport_;
  const Workload& workload_;
  size_t next_, end_, planned_, done_ = 0;
  const LoadPlan& plan_;
  const LoadCallbacks& callbacks_;
  LoadResult result_;
  int in_flight_ = 0;
};
}  // namespace

std::string request_body(const WorkloadPrompt& prompt, const std::vector<std::pair<std::string, std::string>>& history, const LoadPlan& plan, size_t index) {
  Json body = Json::object();
  if (!plan.model.empty()) body["model"] = plan.model;
  if (!prompt.ids.empty()) {
    body["prompt"] = prompt.ids;
  } else {
    body["messages"] = Json::array();
    if (!prompt.system.empty()) body["messages"].push_back({{"role", "system"}, {"content", prompt.system}});
    for (const auto& [role, content] : history) body["messages"].push_back({{"role", role}, {"content", content}});
  }
  body["stream"] = true;
  body["stream_options"] = {{"include_usage", true}};
  if (plan.continuous_usage) body["stream_options"]["continuous_usage_stats"] = true;
  body["temperature"] = 0;
  body["max_tokens"] = plan.max_tokens;
  if (plan.ignore_eos) body["ignore_eos"] = true;
  if (plan.unique_salts) body["cache_salt"] = fmt::format("{}-{}-{}", plan.seed, monotonic_ns(), index);
  if (!plan.extra.empty()) body.merge_patch(Json::parse(plan.extra));
  return body.dump(-1, ' ', false, Json::error_handler_t::replace);
}

LoadResult run_load(Transport& transport, const Workload& workload, size_t first, size_t count, const LoadPlan& plan, const LoadCallbacks& callbacks) {
  return LoadRun(transport, workload, first, count, plan, callbacks).run();
}

Json record_json(const RequestRecord& r) {
  const auto known = [](int64_t n) { return n >= 0 ? Json(n) : Json(nullptr); };
  Json out = {{"id", r.id}, {"category", r.category}, {"t0_ns", r.t0_ns}, {"chunk_ns", r.chunk_ns}, {"end_ns", r.end_ns}, {"connect_ns", r.connect_ns},
              {"first_content_ns", r.first_content_ns > 0 ? Json(r.first_content_ns) : Json(nullptr)}, {"first_chunk_tokens", r.first_chunk_tokens > 0 ? Json(r.first_chunk_tokens) : Json(nullptr)},
              {"isl", known(r.isl)}, {"isl_rendered", known(r.isl_rendered)}, {"osl", known(r.osl())}, {"osl_server", known(r.osl_server)}, {"osl_client", known(r.osl_client)},
              {"token_source", r.token_source()}, {"finish_reason", r.finish_reason}, {"status", r.status}, {"error", r.error.empty() ? Json(nullptr) : Json(r.error)}};
  if (r.spec) out["spec"] = {{"steps", r.spec->steps}, {"drafted", r.spec->drafted}, {"accepted", r.spec->accepted}, {"histogram", r.spec->histogram}};
  if (r.spec && !r.spec->per_step_drafted.empty()) {
    out["spec"]["per_step_drafted"] = r.spec->per_step_drafted;
    out["spec"]["per_step_accepted"] = r.spec->per_step_accepted;
  }
  return out;
}

RequestRecord record_from_json(const Json& json) {
  try {
    const auto number = [&](const char* key, int64_t absent) { return json.contains(key) && !json[key].is_null() ? json[key].get<int64_t>() : absent; };
    RequestRecord r;
    r.id = json.at("id");
    r.category = json.at("category");
    r.t0_ns = json.at("t0_ns");
    r.chunk_ns = json.at("chunk_ns").get<std::vector<int64_t>>();
    r.end_ns = number("end_ns", 0);
    r.connect_ns = number("connect_ns", 0);
    r.first_content_ns = number("first_content_ns", 0);
    r.first_chunk_tokens = number("first_chunk_tokens", 0);
    r.isl = number("isl", -1);
    r.isl_rendered = number("isl_rendered", -1);
    r.osl_server = number("osl_server", -1);
    r.osl_client = number("osl_client", -1);
    r.finish_reason = json.at("finish_reason");
    r.status = json.at("status");
    if (!json.at("error").is_null()) r.error = json["error"];
    if (json.contains("spec")) {
      const Json& s = json["spec"];
      r.spec = SpeculationCounts{.steps = s.at("steps"), .drafted = s.at("drafted"), .accepted = s.at("accepted"), .histogram = s.at("histogram").get<std::vector<int64_t>>()};
      if (s.contains("per_step_drafted")) {
        r.spec->per_step_drafted = s["per_step_drafted"].get<std::vector<int32_t>>();
        r.spec->per_step_accepted = s.at("per_step_accepted").get<std::vector<int32_t>>();
      }
    }
    return r;
  } catch (const nlohmann::json::exception& error) {
    raise(ErrorCode::corrupt, "a line of records.jsonl: {}", error.what());
  }
}
}  // namespace nibble
