#include "eval/eval_run.h"

#include <fmt/format.h>

#include <chrono>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "base/file_io.h"

namespace nibble {
namespace fs = std::filesystem;
namespace {
using Json = nlohmann::ordered_json;

double epoch_seconds() { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); }
std::string dumped(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

class EvalRun {
 public:
  EvalRun(Transport& transport, const EvalTask& task, const EvalPlan& plan, const fs::path& folder, const std::function<void(const EvalProgress&)>& on_progress, const std::function<bool()>& stopped)
      : transport_(transport), task_(task), plan_(plan), on_progress_(on_progress), stopped_(stopped) {
    std::map<std::string, size_t> index;
    for (size_t i = 0; i < task.items.size(); ++i) index[task.items[i].id] = i;
    for (int k = 0; k < plan.n_repeats; ++k) {
      const fs::path file = folder / fmt::format("output-rs{}.jsonl", k);
      auto& slots = slots_.emplace_back(task.items.size());
      if (fs::exists(file)) {
        const std::vector<EvalSample> kept = read_samples(file);
        std::string text;
        for (const EvalSample& s : kept) {
          const auto at = index.find(s.id);
          if (at == index.end()) raise(ErrorCode::invalid_argument, "{} holds the id '{}', which this task does not have", file.string(), s.id);
          slots[at->second] = s;
          text += dumped(sample_json(s)) + "\n";
          note(s);
        }
        write_file(file, text);  // without a line that was cut off
      }
      files_.emplace_back(file, std::ios::app);
      if (!files_.back()) raise(ErrorCode::invalid_argument, "{}: cannot be written", file.string());
      for (size_t i = 0; i < task.items.size(); ++i) {
        if (!slots[i]) pending_.emplace_back(k, i);
      }
    }
  }

  EvalResult run() {
    const int64_t began = monotonic_ns();
    for (int i = 0; i < plan_.concurrency; ++i) next();
    transport_.run([this] {
      if (interrupted_ || !stopped_ || !stopped_()) return;
      interrupted_ = true;
      at_ = pending_.size();
      transport_.cancel_all();
    });
    EvalResult out;
    out.seconds = static_cast<double>(monotonic_ns() - began) / 1e9;
    for (auto& slots : slots_) {
      auto& samples = out.repeats.emplace_back();
      for (auto& s : slots) {
        if (s) samples.push_back(std::move(*s));
        else out.partial = true;
      }
    }
    return out;
  }

 private:
  struct Job {
    int repeat;
    size_t index;
    int tries = 0;
    size_t candidate = 0;  // of the scorers that read log-probabilities
    EvalReply reply;
    EvalSample sample;
  };

  void next() {
    if (at_ >= pending_.size()) return;
    auto job = std::make_shared<Job>();
    std::tie(job->repeat, job->index) = pending_[at_++];
    const EvalItem& item = task_.items[job->index];
    job->sample = {.id = item.id, .problem = item.problem, .expected = item.expected_text()};
    job->sample.started = epoch_seconds();
    send(job);
  }

  void send(const std::shared_ptr<Job>& job) {
    ++job->tries;
    const EvalItem& item = task_.items[job->index];
    const bool chat = !needs_logprobs(item.scorer);
    transport_.start({.target = chat ? "/v1/chat/completions" : "/v1/completions",
                      .body = chat ? eval_request(task_, item, plan_, job->repeat) : logprob_request(item, job->candidate),
                      .on_body = {},
                      .on_done = [this, job, chat](HttpOutcome&& outcome) { chat ? chat_done(job, outcome) : logprob_done(job, outcome); }});
  }

  // The text behind the item's prompt, one candidate after the other, echoed with its log-probabilities.
  std::string logprob_request(const EvalItem& item, size_t candidate) const {
    Json body = {{"prompt", item.prompt + candidates(item)[candidate]}, {"echo", true}, {"logprobs", 1}, {"max_tokens", 1}, {"temperature", 0}};
    if (!plan_.model.empty()) body["model"] = plan_.model;
    return dumped(body);
  }
  static std::vector<std::string> candidates(const EvalItem& item) {
    if (item.scorer == "loglikelihood") return {item.expected_text()};
    return Json::parse(item.choices.empty() ? "[\"\"]" : item.choices).get<std::vector<std::string>>();
  }

  // Whether the outcome ends this try for good; waits and tries again otherwise.
  bool failed(const std::shared_ptr<Job>& job, const HttpOutcome& outcome) {
    if (outcome.error == "cancelled" || interrupted_) return true;
    if (outcome.status == 200 && outcome.error.empty()) return false;
    if (outcome.status == 400 || job->tries >= plan_.max_tries) {
      job->sample.finish_reason = "error";
      job->sample.reason = !outcome.error.empty() ? outcome.error : fmt::format("HTTP {}: {}", outcome.status, outcome.body.substr(0, 300));
      keep(job);
      return true;
    }
    const double wait = plan_.first_wait_seconds * static_cast<double>(1 << (job->tries - 1));
    transport_.at(monotonic_ns() + static_cast<int64_t>(wait * 1e9), [this, job] { send(job); });
    return true;
  }

  void chat_done(const std::shared_ptr<Job>& job, const HttpOutcome& outcome) {
    if (failed(job, outcome)) return;
    const Json body = Json::parse(outcome.body, nullptr, false);
    EvalSample& s = job->sample;
    try {
      const Json& choice = body.at("choices").at(0);
      const Json& message = choice.at("message");
      if (message.contains("content") && message["content"].is_string()) job->reply.content = message["content"];
      if (message.contains("reasoning_content") && message["reasoning_content"].is_string()) s.reasoning = message["reasoning_content"];
      if (message.contains("tool_calls") && message["tool_calls"].is_array() && !message["tool_calls"].empty()) {
        Json calls = Json::array();
        for (const Json& call : message["tool_calls"]) calls.push_back(call.at("function"));
        job->reply.tool_calls = dumped(calls);
      }
      s.finish_reason = choice.contains("finish_reason") && choice["finish_reason"].is_string() ? choice["finish_reason"] : "";
      if (body.contains("usage") && body["usage"].is_object()) {
        const Json& usage = body["usage"];
        s.prompt_tokens = usage.value("prompt_tokens", int64_t{0});
        s.generated_tokens = usage.value("completion_tokens", int64_t{0});
        if (usage.contains("completion_tokens_details") && usage["completion_tokens_details"].is_object()) s.reasoning_tokens = usage["completion_tokens_details"].value("reasoning_tokens", int64_t{0});
      }
    } catch (const nlohmann::json::exception&) {
      s.finish_reason = "error";
      s.reason = "not a chat completion";
    }
    keep(job);
  }

  void logprob_done(const std::shared_ptr<Job>& job, const HttpOutcome& outcome) {
    if (failed(job, outcome)) return;
    const EvalItem& item = task_.items[job->index];
    try {
      const Json& choice = Json::parse(outcome.body).at("choices").at(0);
      const Json& offsets = choice.at("logprobs").at("text_offset");
      const Json& values = choice.at("logprobs").at("token_logprobs");
      const auto text = static_cast<int64_t>(item.prompt.size()), end = text + static_cast<int64_t>(candidates(item)[job->candidate].size());
      double sum = 0;
      int64_t tokens = 0;
      for (size_t i = 0; i < values.size(); ++i) {
        const int64_t at = offsets.at(i);
        if (at < text || at >= end || values[i].is_null()) continue;
        sum += values[i].get<double>();
        ++tokens;
      }
      job->reply.logprobs.push_back(sum);
      job->reply.logprob_tokens.push_back(tokens);
      job->sample.finish_reason = "stop";
    } catch (const nlohmann::json::exception& error) {
      job->sample.finish_reason = "error";
      job->sample.reason = error.what();
      return keep(job);
    }
    if (++job->candidate < candidates(item).size()) {
      job->tries = 0;
      return send(job);
    }
    keep(job);
  }

  void keep(const std::shared_ptr<Job>& job) {
    EvalSample& s = job->sample;
    const EvalItem& item = task_.items[job->index];
    s.ended = epoch_seconds();
    s.generation = job->reply.content;
    s.tool_calls = job->reply.tool_calls;
    if (s.finish_reason != "error") {
      const Mark mark = mark_reply(item, job->reply);
      s.mark = mark.mark;
      s.predicted = mark.answer;
      s.reason = mark.reason;
    }
    s.correct = s.mark == 1;
    std::ofstream& file = files_[static_cast<size_t>(job->repeat)];
    file << dumped(sample_json(s)) << "\n" << std::flush;
    if (!file) raise(ErrorCode::internal, "predictions cannot be written: is the disk full?");
    note(s);
    slots_[static_cast<size_t>(job->repeat)][job->index] = std::move(s);
    next();
  }

  void note(const EvalSample& s) {
    ++done_;
    marks_ += s.mark;
    if (!on_progress_) return;
    const double score = marks_ / static_cast<double>(done_);
    on_progress_({.done = done_, .planned = task_.items.size() * static_cast<size_t>(plan_.n_repeats), .score = score, .error = score_error(score, static_cast<int64_t>(done_))});
  }

  Transport& transport_;
  const EvalTask& task_;
  const EvalPlan& plan_;
  std::function<void(const EvalProgress&)> on_progress_;
  std::function<bool()> stopped_;
  std::vector<std::vector<std::optional<EvalSample>>> slots_;
  std::vector<std::ofstream> files_;
  std::vector<std::pair<int, size_t>> pending_;
  size_t at_ = 0, done_ = 0;
  double marks_ = 0;
  bool interrupted_ = false;
};
}  // namespace

std::string eval_request(const EvalTask& task, const EvalItem& item, const EvalPlan& plan, int repeat) {
  Json body = Json::object();
  if (!plan.model.empty()) body["model"] = plan.model;
  body["messages"] = Json::parse(item.messages);
  body["temperature"] = plan.temperature;
  body["top_p"] = plan.top_p;
  body["min_p"] = plan.min_p;
  body["repetition_penalty"] = plan.repetition_penalty;
  if (plan.max_tokens) body["max_tokens"] = *plan.max_tokens;
  if (plan.seed) body["seed"] = *plan.seed + repeat;
  if (!item.tools.empty()) body["tools"] = Json::parse(item.tools);
  if (!item.tool_choice.empty()) body["tool_choice"] = Json::parse(item.tool_choice);
  for (const std::string& extra : {task.request, item.request}) {
    if (!extra.empty()) body.update(Json::parse(extra));
  }
  return dumped(body);
}

EvalResult run_eval(Transport& transport, const EvalTask& task, const EvalPlan& plan, const fs::path& folder, const std::function<void(const EvalProgress&)>& on_progress, const std::function<bool()>& stopped) {
  return EvalRun(transport, task, plan, folder, on_progress, stopped).run();
}
}  // namespace nibble
