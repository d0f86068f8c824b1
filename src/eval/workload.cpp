#include "eval/workload.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "base/file_io.h"
#include "base/rng.h"
#include "base/shipped_files.h"

namespace nibble {
namespace {
constexpr std::string_view kPlaceholder = "FULL BENCHMARK DATA SHOULD BE FETCHED FROM THE SOURCE";
constexpr size_t kIdLength = 32;

double uniform(uint64_t key, uint64_t index) {
  const PhiloxCounter r = philox4x32({static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), 0x6265u, 0}, key);
  return uniform_double(r[0], r[1]);
}

constexpr const char* kWords[] = {
    "the",   "of",     "and",   "a",      "to",    "in",    "is",    "you",   "that",  "it",    "he",    "was",    "for",    "on",    "are",    "as",    "with",  "his",    "they",   "at",
    "be",    "this",   "have",  "from",   "or",    "one",   "had",   "by",    "word",  "but",   "not",   "what",   "all",    "were",  "we",     "when",  "your",  "can",    "said",   "there",
    "use",   "an",     "each",  "which",  "she",   "do",    "how",   "their", "if",    "will",  "up",    "other",  "about",  "out",   "many",   "then",  "them",  "these",  "so",     "some",
    "her",   "would",  "make",  "like",   "him",   "into",  "time",  "has",   "look",  "two",   "more",  "write",  "go",     "see",   "number", "no",    "way",   "could",  "people", "my",
    "than",  "first",  "water", "been",   "call",  "who",   "oil",   "its",   "now",   "find",  "long",  "down",   "day",    "did",   "get",    "come",  "made",  "may",    "part",   "over",
    "river", "engine", "light", "garden", "paper", "metal", "cloud", "house", "train", "field", "story", "bridge", "window", "stone", "winter", "green", "small", "heavy",  "quiet",  "early"};
}  // namespace

std::vector<std::string> Workload::categories() const {
  std::vector<std::string> out;
  for (const WorkloadPrompt& p : prompts) {
    if (std::find(out.begin(), out.end(), p.category) == out.end()) out.push_back(p.category);
  }
  return out;
}

Workload load_workload(const std::filesystem::path& file) {
  const std::string text = read_file(file);
  Workload out{.name = file.stem().string(), .file = file.string(), .sha256 = sha256_hex(text)};
  std::set<std::string> seen;
  int64_t number = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view line(text.data() + at, end - at);
    at = end + 1;
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const auto bad = [&](const std::string& what) { raise(ErrorCode::corrupt, "{}:{}: {}", file.string(), number, what); };
    const auto row = nlohmann::ordered_json::parse(line, nullptr, false);
    if (!row.is_object()) bad("not a JSON object");
    const auto text_of = [&](const nlohmann::ordered_json& object, const char* key) {
      if (!object.is_object() || !object.contains(key) || !object[key].is_string() || object[key].get<std::string>().empty()) bad(fmt::format("wanted '{}', a non-empty string", key));
      return object[key].get<std::string>();
    };
    WorkloadPrompt p;
    p.id = text_of(row, "question_id");
    size_t characters = 0;
    for (const char c : p.id) characters += (static_cast<unsigned char>(c) & 0xc0) != 0x80;
    if (characters != kIdLength) bad(fmt::format("question_id '{}' has {} characters, wanted {}", p.id, characters, kIdLength));
    if (!seen.insert(p.id).second) bad(fmt::format("question_id '{}' came before", p.id));
    p.category = text_of(row, "category");
    if (!row.contains("messages") || !row["messages"].is_array() || row["messages"].empty()) bad("wanted 'messages', a non-empty list");
    for (const auto& m : row["messages"]) {
      const std::string role = text_of(m, "role"), content = text_of(m, "content");
      if (content.find(kPlaceholder) != std::string::npos) bad("holds the placeholder of the public file instead of a prompt; fetch the data from its sources first");
      if (role == "user") p.turns.push_back(content);
      if (role == "system" && p.turns.empty()) p.system = content;
    }
    if (p.turns.empty()) bad("has no user message");
    out.prompts.push_back(std::move(p));
  }
  if (out.prompts.empty()) raise(ErrorCode::corrupt, "{}: no prompts", file.string());
  return out;
}

std::filesystem::path own_workload() {
  if (const char* file = std::getenv("NIBBLE_PROMPTS")) return file;
  return shipped_file("workloads/qualitative.jsonl", "bench/workloads/qualitative.jsonl");
}

Workload random_workload(int64_t count, int64_t input_tokens, int32_t low, int32_t high, uint64_t seed) {
  Workload out{.name = fmt::format("random-{}", input_tokens), .sha256 = sha256_hex(fmt::format("random {} {} {} {} {}", count, input_tokens, low, high, seed)), .synthetic = true};
  for (int64_t i = 0; i < count; ++i) {
    WorkloadPrompt p{.id = fmt::format("random-{:025}", i), .category = "random"};
    for (int64_t j = 0; j < input_tokens; ++j) {
      p.ids.push_back(low + static_cast<int32_t>(uniform(seed + 1, static_cast<uint64_t>(i) << 32 | static_cast<uint64_t>(j)) * (high - low)));
    }
    out.prompts.push_back(std::move(p));
  }
  return out;
}

Workload words_workload(int64_t count, int64_t words, uint64_t seed) {
  Workload out{.name = fmt::format("words-{}", words), .sha256 = sha256_hex(fmt::format("words {} {} {}", count, words, seed)), .synthetic = true};
  for (int64_t i = 0; i < count; ++i) {
    WorkloadPrompt p{.id = fmt::format("words-{:026}", i), .category = "words"};
    std::string text;
    for (int64_t j = 0; j < words; ++j) {
      if (j > 0) text += ' ';
      text += kWords[static_cast<size_t>(uniform(seed + 2, static_cast<uint64_t>(i) << 32 | static_cast<uint64_t>(j)) * std::size(kWords))];
    }
    p.turns.push_back(std::move(text));
    out.prompts.push_back(std::move(p));
  }
  return out;
}

void shuffle_workload(Workload& workload, uint64_t seed) {
  for (size_t i = workload.prompts.size(); i-- > 1;) std::swap(workload.prompts[i], workload.prompts[static_cast<size_t>(uniform(seed, i) * static_cast<double>(i + 1))]);
}

// FIPS 180-4.
std::string sha256_hex(std::string_view bytes) {
  constexpr std::array<uint32_t, 64> k = {
      0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74,
      0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d,
      0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e,
      0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5,
      0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
  std::array<uint32_t, 8> h = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::string message(bytes);
  message += '\x80';
  message.resize((message.size() + 8 + 63) / 64 * 64 - 8, '\0');
  for (int shift = 56; shift >= 0; shift -= 8) message += static_cast<char>(static_cast<uint64_t>(bytes.size()) * 8 >> shift);
  const auto rotate = [](uint32_t x, int n) { return x >> n | x << (32 - n); };
  for (size_t at = 0; at < message.size(); at += 64) {
    std::array<uint32_t, 64> w;
    for (size_t i = 0; i < 16; ++i) {
      w[i] = 0;
      for (size_t j = 0; j < 4; ++j) w[i] = w[i] << 8 | static_cast<unsigned char>(message[at + 4 * i + j]);
    }
    for (size_t i = 16; i < 64; ++i) {
      const uint32_t s0 = rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3, s1 = rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10;
      w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    auto v = h;
    for (size_t i = 0; i < 64; ++i) {
      const uint32_t s1 = rotate(v[4], 6) ^ rotate(v[4], 11) ^ rotate(v[4], 25), t1 = v[7] + s1 + ((v[4] & v[5]) ^ (~v[4] & v[6])) + k[i] + w[i];
      const uint32_t s0 = rotate(v[0], 2) ^ rotate(v[0], 13) ^ rotate(v[0], 22), t2 = s0 + ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
      v = {t1 + t2, v[0], v[1], v[2], v[3] + t1, v[4], v[5], v[6]};
    }
    for (size_t i = 0; i < 8; ++i) h[i] += v[i];
  }
  std::string out;
  for (const uint32_t word : h) out += fmt::format("{:08x}", word);
  return out;
}
}  // namespace nibble
