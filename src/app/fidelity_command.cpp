#include "app/fidelity_command.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>

#include "app/interrupt.h"
#include "base/file_io.h"
#include "eval/fidelity.h"
#include "eval/workload.h"

namespace nibble {
namespace {
using Json = nlohmann::ordered_json;
constexpr size_t kChunk = 64;  // rows whose logits are held at once: 64 of 262,144 are 64 MiB a model

std::vector<std::vector<int32_t>> documents(const FidelityFlags& flags, const LoadedModel& model) {
  std::vector<std::vector<int32_t>> out;
  std::optional<Tokenizer> tokenizer;
  if (std::filesystem::exists(model.tokenizer_folder / "tokenizer.json")) tokenizer = Tokenizer::load(model.tokenizer_folder);
  const int32_t bos = model.config.bos_token_id;
  const auto add_text = [&](const std::string& text) {
    if (!tokenizer) raise(ErrorCode::invalid_argument, "{} has no tokenizer.json: give --prompts with 'ids'", model.tokenizer_folder.string());
    out.push_back(tokenizer->encode(text, false));
    out.back().insert(out.back().begin(), bos);
  };
  const std::string file = flags.prompts.empty() ? own_workload().string() : flags.prompts, text = read_file(file);
  int64_t number = 0;
  for (size_t at = 0; at < text.size() && static_cast<int64_t>(out.size()) < flags.num_examples;) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const Json row = Json::parse(text.substr(at, end - at), nullptr, false);
    at = end + 1;
    ++number;
    if (row.is_object() && row.contains("ids")) {
      out.push_back(row["ids"].get<std::vector<int32_t>>());
      for (const int32_t id : out.back()) {
        if (id < 0 || id >= model.config.vocab_size) raise(ErrorCode::corrupt, "{}:{}: 'ids' holds {}, wanted 0 to {}", file, number, id, model.config.vocab_size - 1);
      }
    } else if (row.is_object() && row.contains("text")) {
      add_text(row["text"]);
    } else if (row.is_object() && row.contains("messages")) {
      // Every 27th of our own, so that all categories take part.
      if (flags.prompts.empty() && number % 27 != 1) continue;
      add_text(row["messages"][0]["content"]);
    } else {
      raise(ErrorCode::corrupt, "{}:{}: wanted 'ids', 'text' or 'messages'", file, number);
    }
  }
  return out;
}
}  // namespace

Json measure_fidelity(const FidelityFlags& flags) {
  ModelFlags reference_flags = flags.candidate;
  reference_flags.model_path = flags.reference;
  reference_flags.quantization.clear();
  const auto reference = load_model(reference_flags), candidate = load_model(flags.candidate);
  if (reference->config.vocab_size != candidate->config.vocab_size) raise(ErrorCode::invalid_argument, "the vocabularies have {} and {} tokens", reference->config.vocab_size, candidate->config.vocab_size);
  const auto vocab = static_cast<size_t>(reference->config.vocab_size);
  Fidelity fidelity(reference->config.vocab_size);
  std::vector<float> p(kChunk * vocab), q(kChunk * vocab);
  for (const std::vector<int32_t>& ids : documents(flags, *reference)) {
    if (InterruptGuard::requested()) raise(ErrorCode::cancelled, "interrupted");
    std::vector<int32_t> table((ids.size() + kPageTokens - 1) / kPageTokens);
    std::iota(table.begin(), table.end(), 0);
    for (size_t at = 0; at < ids.size(); at += kChunk) {
      const size_t n = std::min(kChunk, ids.size() - at);
      const SequenceSlice slice{0, static_cast<int32_t>(n), static_cast<int32_t>(at), table, table};
      std::vector<int32_t> rows(n);
      std::iota(rows.begin(), rows.end(), 0);
      const Step step{std::span(ids).subspan(at, n), {&slice, 1}, rows};
      reference->model->forward(step, p.data());
      candidate->model->forward(step, q.data());
      for (size_t i = 0; i < n; ++i) fidelity.add(std::span(p).subspan(i * vocab, vocab), std::span(q).subspan(i * vocab, vocab), at + i + 1 < ids.size() ? ids[at + i + 1] : -1);
    }
    fidelity.end_document();
  }
  Json report = {{"reference", flags.reference}, {"candidate", flags.candidate.model_path}, {"reference_format", name_of(reference->quant.algo)}, {"candidate_format", name_of(candidate->quant.algo)}};
  report.update(fidelity.report());
  return report;
}

int run_fidelity(const FidelityFlags& flags) {
  const InterruptGuard interrupt;
  Json report;
  try {
    report = measure_fidelity(flags);
  } catch (const Error& error) {
    if (error.code != ErrorCode::cancelled) throw;
    return 130;
  }
  if (flags.json) {
    fmt::print("{}\n", report.dump(1));
  } else {
    for (const auto& [key, value] : report.items()) fmt::print("{:<18} {}\n", key, value.is_string() ? value.get<std::string>() : value.dump());
  }
  return 0;
}
}  // namespace nibble
