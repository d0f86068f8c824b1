#include "eval/load_metrics.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace nibble {
namespace {
using Json = nlohmann::ordered_json;

double ms(int64_t ns) { return static_cast<double>(ns) / 1e6; }

template <typename Get>
std::vector<double> collect(const std::vector<RequestMetrics>& all, Get get) {
  std::vector<double> out;
  for (const RequestMetrics& m : all) {
    if (const std::optional<double> v = get(m)) out.push_back(*v);
  }
  return out;
}

bool within(const RequestMetrics& m, const Limits& slo) {
  for (const auto& [name, limit] : slo) {
    std::optional<double> v;
    if (name == "ttft") v = m.ttft;
    if (name == "itl") v = m.itl;
    if (name == "request_latency") v = m.request_latency;
    if (name == "itl" && !v && m.ttft) continue;  // a reply of one token has none
    if (!v || *v > limit) return false;
  }
  return true;
}
}  // namespace

int64_t RequestRecord::last_ns() const {
  const auto chunks = static_cast<int64_t>(chunk_ns.size());
  if (chunks < 2) return chunks == 1 ? chunk_ns[0] : end_ns;
  const int64_t apart = (chunk_ns.back() - chunk_ns[0]) / (chunks - 1);
  return chunks < osl() && end_ns - chunk_ns.back() > 10 * apart ? end_ns : chunk_ns.back();
}

RequestMetrics metrics_of(const RequestRecord& r) {
  RequestMetrics out;
  if (!r.ok() || r.chunk_ns.empty()) return out;
  const std::vector<int64_t>& t = r.chunk_ns;
  out.ttft = ms(t[0] - r.t0_ns);
  out.request_latency = ms(r.last_ns() - r.t0_ns);
  if (t.size() > 1) out.ttst = ms(t[1] - t[0]);
  if (r.first_content_ns > 0) out.ttfo = ms(r.first_content_ns - r.t0_ns);
  for (size_t i = 1; i < t.size(); ++i) out.icl.push_back(ms(t[i] - t[i - 1]));
  const int64_t n = r.osl(), first = r.first_chunk_tokens > 0 ? r.first_chunk_tokens : 1;
  if (n >= 2 && n > first && t.size() > 1) {
    out.itl = ms(r.last_ns() - t[0]) / static_cast<double>(n - first);
    if (*out.itl > 0) out.tok_s_user = 1000 / *out.itl;
  }
  if (n > 0 && *out.request_latency > 0) out.tok_s_e2e = 1000 * static_cast<double>(n) / *out.request_latency;
  const int64_t input = r.isl >= 0 ? r.isl : r.isl_rendered;
  if (input >= 0 && *out.ttft > 0) out.prefill_tok_s = 1000 * static_cast<double>(input) / *out.ttft;
  return out;
}

std::optional<SpeculationMetrics> speculation_of(const std::vector<RequestRecord>& records) {
  SpeculationMetrics s;
  double lengths = 0;
  int64_t requests = 0;
  std::vector<int64_t> offered, taken;
  bool detailed = true;
  for (const RequestRecord& r : records) {
    if (!r.spec || r.spec->steps == 0) continue;
    const SpeculationCounts& c = *r.spec;
    s.steps += c.steps;
    s.drafted += c.drafted;
    s.accepted += c.accepted;
    lengths += 1 + static_cast<double>(c.accepted) / static_cast<double>(c.steps);
    ++requests;
    if (c.histogram.size() > s.histogram.size()) s.histogram.resize(c.histogram.size());
    for (size_t j = 0; j < c.histogram.size(); ++j) s.histogram[j] += c.histogram[j];
    detailed = detailed && c.per_step_drafted.size() == static_cast<size_t>(c.steps) && c.per_step_accepted.size() == c.per_step_drafted.size();
    for (size_t i = 0; detailed && i < c.per_step_drafted.size(); ++i) {
      const auto l = static_cast<size_t>(c.per_step_drafted[i]), j = static_cast<size_t>(c.per_step_accepted[i]);
      if (l > offered.size()) offered.resize(l), taken.resize(l);
      for (size_t k = 0; k < l; ++k) ++offered[k], taken[k] += k < j;
    }
  }
  if (s.steps == 0) return std::nullopt;
  const auto d = [](int64_t n) { return static_cast<double>(n); };
  s.acceptance_length = 1 + d(s.accepted) / d(s.steps);
  s.acceptance_length_per_request_mean = lengths / d(requests);
  s.acceptance_rate = s.drafted > 0 ? d(s.accepted) / d(s.drafted) : 0;
  s.accepted_per_verified = d(s.accepted + s.steps) / d(s.drafted + s.steps);
  if (!detailed) {
    // Without the offers of each step: every step is taken to have offered the histogram's full depth.
    const size_t depth = s.histogram.empty() ? 0 : s.histogram.size() - 1;
    offered.assign(depth, s.steps);
    taken.assign(depth, 0);
    for (size_t j = 0; j < s.histogram.size(); ++j) {
      for (size_t k = 0; k < std::min(j, depth); ++k) taken[k] += s.histogram[j];
    }
  }
  for (size_t k = 0; k < offered.size(); ++k) s.position_rate.push_back(offered[k] > 0 ? d(taken[k]) / d(offered[k]) : 0);
  return s;
}

Json summary_json(const Summary& s) {
  return {{"count", s.count}, {"mean", s.mean}, {"std", s.std}, {"min", s.min}, {"max", s.max}, {"p1", s.p1}, {"p5", s.p5}, {"p10", s.p10},
          {"p25", s.p25}, {"p50", s.p50}, {"p75", s.p75}, {"p90", s.p90}, {"p95", s.p95}, {"p99", s.p99}};
}

Json histogram_json(const std::vector<double>& values) {
  const LogHistogram h = log_histogram(values);
  return {{"unit", "ms"}, {"bins_per_decade", LogHistogram::kBinsPerDecade}, {"first", h.first}, {"counts", h.counts}};
}

Json load_metrics_json(const std::vector<RequestRecord>& records, const Limits& slo) {
  std::vector<RequestMetrics> all;
  int64_t first = 0, last = 0, tokens = 0, input = 0, completed = 0, good = 0, failed = 0;
  double busy_ms = 0;
  std::vector<double> isl, isl_rendered, osl, connect;
  bool isl_known = true, by_server = true, by_client = true;
  for (const RequestRecord& r : records) {
    all.push_back(metrics_of(r));
    const RequestMetrics& m = all.back();
    if (!r.ok()) {
      ++failed;
      continue;
    }
    ++completed;
    if (first == 0 || r.t0_ns < first) first = r.t0_ns;
    last = std::max(last, r.last_ns());
    tokens += std::max<int64_t>(r.osl(), 0);
    input += std::max<int64_t>(r.isl >= 0 ? r.isl : r.isl_rendered, 0);
    busy_ms += m.request_latency.value_or(0);
    good += within(m, slo);
    isl_known = isl_known && r.isl >= 0;
    by_server = by_server && r.osl_server >= 0;
    by_client = by_client && r.osl_server < 0 && r.osl_client >= 0;
    if (r.isl >= 0) isl.push_back(static_cast<double>(r.isl));
    if (r.isl_rendered >= 0) isl_rendered.push_back(static_cast<double>(r.isl_rendered));
    if (r.osl() >= 0) osl.push_back(static_cast<double>(r.osl()));
    if (r.connect_ns > 0) connect.push_back(ms(r.connect_ns));
  }
  std::vector<double> icl;
  for (const RequestMetrics& m : all) icl.insert(icl.end(), m.icl.begin(), m.icl.end());
  const auto itl = collect(all, [](const RequestMetrics& m) { return m.itl; });
  const Summary itl_summary = summarize(itl);
  Json icl_histogram = histogram_json(icl);

  Json out;
  out["token_source"] = by_server ? "server" : by_client ? "client" : "mixed";
  out["isl_source"] = isl_known ? "client" : "rendered";
  out["latency"] = {{"ttft", summary_json(summarize(collect(all, [](const RequestMetrics& m) { return m.ttft; })))},
                    {"ttst", summary_json(summarize(collect(all, [](const RequestMetrics& m) { return m.ttst; })))},
                    {"ttfo", summary_json(summarize(collect(all, [](const RequestMetrics& m) { return m.ttfo; })))},
                    {"request_latency", summary_json(summarize(collect(all, [](const RequestMetrics& m) { return m.request_latency; })))},
                    {"itl", summary_json(itl_summary)},
                    {"icl", summary_json(summarize(std::move(icl)))},
                    {"tok_s_user", summary_json(summarize(collect(all, [](const RequestMetrics& m) { return m.tok_s_user; })))},
                    {"tok_s_e2e", summary_json(summarize(collect(all, [](const RequestMetrics& m) { return m.tok_s_e2e; })))},
                    {"prefill_tok_s", summary_json(summarize(collect(all, [](const RequestMetrics& m) { return m.prefill_tok_s; })))},
                    {"isl", summary_json(summarize(std::move(isl)))},
                    {"isl_rendered", summary_json(summarize(std::move(isl_rendered)))},
                    {"osl", summary_json(summarize(std::move(osl)))},
                    {"connect", summary_json(summarize(std::move(connect)))}};
  out["histograms"] = {{"itl", histogram_json(itl)}, {"icl", std::move(icl_histogram)}};
  const double duration = static_cast<double>(last - first) / 1e9, per = duration > 0 ? 1 / duration : 0;
  out["throughput"] = {{"duration", duration}, {"output_token_throughput", static_cast<double>(tokens) * per}, {"total_token_throughput", static_cast<double>(input + tokens) * per},
                       {"request_throughput", static_cast<double>(completed) * per}, {"goodput", slo.empty() ? Json(nullptr) : Json(static_cast<double>(good) * per)},
                       {"effective_concurrency", busy_ms / 1000 * per}, {"tok_s_user_by_mean_itl", itl_summary.mean > 0 ? Json(1000 / itl_summary.mean) : Json(nullptr)},
                       {"output_tokens", tokens}, {"completed", completed}};
  if (!slo.empty()) out["throughput"]["slo"] = slo;

  if (const auto s = speculation_of(records)) {
    out["spec"] = {{"acceptance_length", s->acceptance_length}, {"acceptance_length_per_request_mean", s->acceptance_length_per_request_mean}, {"acceptance_rate", s->acceptance_rate},
                   {"accepted_per_verified", s->accepted_per_verified}, {"position_rate", s->position_rate}, {"histogram", s->histogram}, {"steps", s->steps}, {"drafted", s->drafted},
                   {"accepted", s->accepted}};
    // A step emits accepted + 1 tokens; the first token of a request comes from its prefill.
    const double by_steps = static_cast<double>(s->accepted + s->steps), others = std::max(static_cast<double>(tokens - completed) - by_steps, 0.0);
    out["spec"]["spec_step_share"] = static_cast<double>(s->steps) / (static_cast<double>(s->steps) + others);
  } else {
    out["spec"] = nullptr;
  }

  std::map<std::string, std::vector<RequestRecord>> groups;
  for (const RequestRecord& r : records) {
    if (r.ok()) groups[r.category].push_back(r);
  }
  out["by_category"] = Json::object();
  for (const auto& [name, group] : groups) {
    std::vector<RequestMetrics> own;
    std::vector<double> lengths;
    for (const RequestRecord& r : group) {
      own.push_back(metrics_of(r));
      if (r.osl() >= 0) lengths.push_back(static_cast<double>(r.osl()));
    }
    const auto s = speculation_of(group);
    out["by_category"][name] = {{"n", group.size()}, {"itl", summarize(collect(own, [](const RequestMetrics& m) { return m.itl; })).mean},
                                {"tok_s_user", summarize(collect(own, [](const RequestMetrics& m) { return m.tok_s_user; })).mean},
                                {"acceptance_length", s ? Json(s->acceptance_length) : Json(nullptr)}, {"osl", summarize(std::move(lengths)).mean}};
  }
  const auto planned = static_cast<double>(std::max<size_t>(records.size(), 1));
  out["validity"] = {{"failed", failed}, {"degraded", failed > 0}, {"valid", static_cast<double>(failed) <= 0.01 * planned}};
  return out;
}
}  // namespace nibble
