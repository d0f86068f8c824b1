// Tokenizer speed, one thread. bench/tokenizer_compare.py runs it beside the Rust library on the same documents:
//   NIBBLE_BENCH_TOKENIZER   a tokenizer.json (default: the small one of the tests)
//   NIBBLE_BENCH_DOCUMENTS   a file of documents separated by NUL bytes (default: the recorded test texts)
#include <benchmark/benchmark.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "base/file_io.h"
#include "text/tokenizer.h"

namespace nibble {
namespace {
std::string tokenizer_path() {
  const char* path = std::getenv("NIBBLE_BENCH_TOKENIZER");
  return path ? path : NIBBLE_REPO_DIR "/tests/data/tokenizer/small1k-tokenizer.json";
}

const Tokenizer& tokenizer() {
  static const Tokenizer instance = Tokenizer::load(tokenizer_path());
  return instance;
}

std::vector<std::string> documents() {
  const char* path = std::getenv("NIBBLE_BENCH_DOCUMENTS");
  const std::string text = read_file(path ? path : NIBBLE_REPO_DIR "/README.md");
  std::vector<std::string> out;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\0', at), text.size());
    out.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return out;
}

void load(benchmark::State& state) {
  for (auto _ : state) benchmark::DoNotOptimize(Tokenizer::load(tokenizer_path()).vocab_size());
}
BENCHMARK(load)->Unit(benchmark::kMillisecond);

void encode_documents(benchmark::State& state) {
  const auto docs = documents();
  tokenizer();  // loaded before the clock runs
  int64_t bytes = 0, tokens = 0;
  for (auto _ : state) {
    for (const std::string& doc : docs) {
      tokens += static_cast<int64_t>(tokenizer().encode(doc).size());
      bytes += static_cast<int64_t>(doc.size());
    }
  }
  state.SetBytesProcessed(bytes);
  state.counters["tokens"] = benchmark::Counter(static_cast<double>(tokens), benchmark::Counter::kIsRate);
}
BENCHMARK(encode_documents)->Unit(benchmark::kMillisecond);

void encode_one_letter(benchmark::State& state) {
  const std::string text(1000000, 'a');
  for (auto _ : state) benchmark::DoNotOptimize(tokenizer().encode(text).size());
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(text.size()));
}
BENCHMARK(encode_one_letter)->Unit(benchmark::kMillisecond);

void encode_random_letters(benchmark::State& state) {
  std::string text;
  for (uint32_t x = 1; text.size() < 1000000;) {
    x ^= x << 13, x ^= x >> 17, x ^= x << 5;
    text += static_cast<char>('a' + x % 26);
  }
  for (auto _ : state) benchmark::DoNotOptimize(tokenizer().encode(text).size());
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(text.size()));
}
BENCHMARK(encode_random_letters)->Unit(benchmark::kMillisecond);

void decode_documents(benchmark::State& state) {
  std::vector<std::vector<int32_t>> ids;
  for (const std::string& doc : documents()) ids.push_back(tokenizer().encode(doc));
  int64_t tokens = 0;
  for (auto _ : state) {
    for (const auto& doc : ids) {
      benchmark::DoNotOptimize(tokenizer().decode(doc, false).size());
      tokens += static_cast<int64_t>(doc.size());
    }
  }
  state.SetItemsProcessed(tokens);
}
BENCHMARK(decode_documents)->Unit(benchmark::kMillisecond);
}  // namespace
}  // namespace nibble
