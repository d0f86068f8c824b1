// What a grammar's mask costs a step: microseconds of processor time per token of GrammarMatcher::allowed() and accept() along random replies that keep to a schema.
//   nibble_engine_bench --benchmark_filter=grammar_mask      counters compile_ms, MiB, mask_us, mask_max_us
// NIBBLE_BENCH_TOKENIZER names a folder with a tokenizer.json other than the demo model's.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <random>

#include "base/clock.h"
#include "base/error.h"
#include "engine/grammar.h"
#include "text/reply_grammar.h"

namespace nibble {
namespace {
struct Named {
  const char* name;
  const char* schema;
};
constexpr Named kSchemas[] = {
    {"free string", R"({"type": "string"})"},
    {"maxLength 20", R"({"type": "string", "maxLength": 20})"},
    {"maxLength 200", R"({"type": "string", "maxLength": 200})"},
    {"maxLength 2000", R"({"type": "string", "maxLength": 2000})"},
    {"maxLength 20000", R"({"type": "string", "maxLength": 20000})"},
    {"minLength 200", R"({"type": "string", "minLength": 200})"},
    {"length 100 to 2000", R"({"type": "string", "minLength": 100, "maxLength": 2000})"},
    {"pattern [a-z]{1,500}", R"({"type": "string", "pattern": "^[a-z]{1,500}$"})"},
    {"pattern .{1,200}", R"({"type": "string", "pattern": "^.{1,200}$"})"},
    {"pattern [^,]*", R"({"type": "string", "pattern": "^[^,]*$"})"},
    {"20 strings of 500", R"({"type": "array", "items": {"type": "string", "maxLength": 500}, "minItems": 20, "maxItems": 20})"},
    {"object of strings", R"({"type": "object", "properties": {"a": {"type": "string", "maxLength": 300}, "b": {"type": "string", "minLength": 5, "maxLength": 3000}, "c": {"type": "integer"}}, "required": ["a", "b", "c"]})"},
};

double thread_cpu_us() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return 1e6 * static_cast<double>(now.tv_sec) + 1e-3 * static_cast<double>(now.tv_nsec);
}

void grammar_mask(benchmark::State& state) {
  const Named& named = kSchemas[state.range(0)];
  state.SetLabel(named.name);
  const char* folder = std::getenv("NIBBLE_BENCH_TOKENIZER");
  static const Tokenizer tokenizer = Tokenizer::load(folder ? std::filesystem::path(folder) : std::filesystem::path(NIBBLE_REPO_DIR) / "models/demo");
  static const std::vector<int32_t> stops{*tokenizer.id_of("<turn|>")};
  static GrammarCompiler compiler(tokenizer, stops, {.max_seconds = 60, .max_bytes = int64_t{4} << 30, .max_cached = 1});
  static const ReplyGrammars grammars(tokenizer, stops, 32);
  value_or_raise(compiler.compile("root ::= \"a\""));  // the vocabulary is read
  const double began = monotonic_seconds();
  const GrammarSource source = grammars.json_schema(nlohmann::ordered_json::parse(named.schema), true, ThoughtFirst::none);
  const auto grammar = value_or_raise(compiler.compile(source.ebnf, source.root));
  state.counters["vocab_size"] = tokenizer.vocab_size();
  state.counters["compile_ms"] = (monotonic_seconds() - began) * 1e3;
  state.counters["MiB"] = static_cast<double>(grammar->bytes()) / (1 << 20);
  std::mt19937 random(1);
  std::vector<uint32_t> mask(static_cast<size_t>(tokenizer.vocab_size() + 31) / 32);
  std::vector<double> times;
  for (auto _ : state) {
    for (int reply = 0; reply < 3; ++reply) {
      GrammarMatcher matcher(grammar, stops);
      for (int token = 0; token < 400 && !matcher.ended(); ++token) {
        const double start = thread_cpu_us();
        matcher.allowed(mask);
        times.push_back(thread_cpu_us() - start);
        // Any allowed token, but an end of the string only now and then.
        std::vector<int32_t> ids;
        for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
          if (mask[static_cast<size_t>(id) / 32] >> (id % 32) & 1) ids.push_back(id);
        }
        if (ids.empty()) raise(ErrorCode::internal, "{}: nothing is allowed", named.name);
        int32_t id = ids[random() % ids.size()];
        for (int tries = 0; tries < 8 && tokenizer.token_bytes(id).find('"') != std::string::npos; ++tries) id = ids[random() % ids.size()];
        if (!matcher.accept(id)) raise(ErrorCode::internal, "{}: an allowed token is refused", named.name);
      }
    }
  }
  std::sort(times.begin(), times.end());
  double sum = 0;
  for (const double t : times) sum += t;
  state.counters["tokens"] = static_cast<double>(times.size());
  state.counters["mask_us"] = sum / static_cast<double>(times.size());
  state.counters["mask_p99_us"] = times[times.size() * 99 / 100];
  state.counters["mask_max_us"] = times.back();
}
BENCHMARK(grammar_mask)->DenseRange(0, std::size(kSchemas) - 1)->Iterations(1)->Unit(benchmark::kMillisecond);
}  // namespace
}  // namespace nibble
