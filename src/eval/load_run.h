// The load generator: sends a workload in a closed or an open loop and records when every chunk came.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "eval/reply_stream.h"
#include "eval/transport.h"
#include "eval/workload.h"

namespace nibble {
struct LoadPlan {
  int concurrency = 1;              // closed loop: exactly so many requests in flight
  double rate = 0;                  // > 0: open loop, Poisson arrivals per second instead
  uint64_t seed = 42;
  int64_t max_tokens = 512;
  bool ignore_eos = false;
  bool multi_turn = false;          // else the first user message only
  bool unique_salts = false;        // no prefix is shared between requests
  bool continuous_usage = false;    // ask for usage on every chunk
  std::string model;                // "" leaves the field out
  std::string extra;                // JSON object merged into every request
};

// One request; a turn of a conversation is a request of its own, "id#2".
struct RequestRecord {
  std::string id, category;
  int64_t t0_ns = 0, end_ns = 0, connect_ns = 0;
  std::vector<int64_t> chunk_ns;
  int64_t first_content_ns = 0;      // 0: none
  int64_t first_chunk_tokens = 0;    // 0: not told
  int64_t isl = -1, isl_rendered = -1;        // -1: unknown
  int64_t osl_server = -1, osl_client = -1;
  std::string finish_reason, error;
  int status = 0;
  std::optional<SpeculationCounts> spec;
  std::string text;                  // content, kept only when asked for

  bool ok() const { return status == 200 && error.empty(); }
  int64_t osl() const { return osl_server >= 0 ? osl_server : osl_client; }
  // When the last token came: with the last chunk; where tokens without text ended the reply (fewer chunks than tokens, then a silence ten times as long as
  // chunks were apart), with the end of the reply.
  int64_t last_ns() const;
  const char* token_source() const { return osl_server >= 0 ? "server" : osl_client >= 0 ? "client" : "none"; }
};

struct LoadResult {
  std::vector<RequestRecord> records;  // in the order of their start
  int64_t began_ns = 0, ended_ns = 0;
  double offered_rate = 0;             // open loop
  double cpu_seconds = 0;              // of this process meanwhile
  int max_in_flight = 0;
  bool interrupted = false;
};

struct LoadCallbacks {
  std::function<int64_t(const std::string& text)> count_tokens;         // the client's tokenizer; may be absent
  std::function<void(const RequestRecord&, size_t done, size_t planned)> on_record;
  std::function<bool()> stopped;                                         // true: start nothing new, cancel what runs
};

// Each of prompts[first, first + count) once, in order.
LoadResult run_load(Transport& transport, const Workload& workload, size_t first, size_t count, const LoadPlan& plan, const LoadCallbacks& callbacks = {});

// The body that run_load sends for one turn.
std::string request_body(const WorkloadPrompt& prompt, const std::vector<std::pair<std::string, std::string>>& history, const LoadPlan& plan, size_t index);

nlohmann::ordered_json record_json(const RequestRecord& record);
RequestRecord record_from_json(const nlohmann::ordered_json& json);  // raises corrupt
}  // namespace nibble
