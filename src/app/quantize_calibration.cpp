#include "app/quantize_calibration.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>

#include "app/interrupt.h"
#include "app/progress_bar.h"
#include "base/error.h"
#include "base/file_io.h"
#include "base/hash.h"
#include "base/thread_pool.h"
#include "formats/quant_config.h"
#include "formats/safetensors.h"
#include "quant/calibration.h"
#include "quant/calibration_text.h"

namespace nibble {
namespace {
using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(',', at), text.size());
    if (end > at) parts.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return parts;
}

std::vector<int64_t> counts_of(const std::string& text) {
  std::vector<int64_t> counts;
  for (const std::string& part : split(text)) {
    int64_t n = -1;
    const auto [end, status] = std::from_chars(part.data(), part.data() + part.size(), n);
    if (status != std::errc() || end != part.data() + part.size() || n < 0) raise(ErrorCode::invalid_argument, "--calib_size {}: wanted a number of samples, or one a file separated by commas", text);
    counts.push_back(n);
  }
  if (counts.empty()) raise(ErrorCode::invalid_argument, "--calib_size '{}': wanted a number of samples", text);
  return counts;
}

bool wants_bos(const QuantizeFlags& flags) {
  if (flags.calib_bos == "auto" || flags.calib_bos == "on") return true;
  if (flags.calib_bos == "off") return false;
  raise(ErrorCode::invalid_argument, "--calib-bos {}: wanted one of auto, on, off", flags.calib_bos);
}

CalibrationText samples_of(const QuantizeFlags& flags, const QuantizeOptions& options, const ModelConfig& config, std::vector<fs::path>& files) {
  for (const std::string& name : split(flags.dataset)) {
    if (!fs::is_regular_file(name)) raise(ErrorCode::not_found, "--calib-data {}: no such file; nothing is downloaded, so a data set is named by its JSONL or text file", name);
    files.emplace_back(name);
  }
  if (files.empty()) files.push_back(own_calibration_text());
  std::optional<Tokenizer> tokenizer;
  if (fs::exists(options.source / "tokenizer.json")) tokenizer = Tokenizer::load(options.source);
  auto chat_template = ChatTemplate::load({options.source, {}, {}});
  return read_calibration_text({.files = files, .counts = counts_of(flags.calib_size), .max_tokens = flags.calib_seq, .bos = wants_bos(flags), .bos_token_id = config.bos_token_id, .vocab_size = config.vocab_size},
                               tokenizer ? &*tokenizer : nullptr, chat_template ? &*chat_template : nullptr);
}

std::string fingerprint_of(const CalibrationText& text, const QuantizeOptions& options) {
  std::string bytes = describe_weight_files(options.source);
  for (const auto& sample : text.samples) {
    bytes.append(reinterpret_cast<const char*>(sample.data()), sample.size() * sizeof(int32_t));
    bytes += '\n';
  }
  const Hash128 hash = hash_bytes(std::as_bytes(std::span(bytes)));
  return fmt::format("{:016x}{:016x}", hash.high, hash.low);
}

// Activations that are not finite mostly come of a weight that is not.
void name_bad_weight(const TensorFiles& tensors) {
  ThreadPool threads(0);
  for (const auto& [name, stored] : tensors.tensors()) {
    if (stored.tensor.dtype != DType::bf16 || stored.tensor.count() == 0) continue;
    try {
      (void)cpu::largest_magnitude(stored.tensor, threads);
    } catch (const Error& error) {
      raise(error.code, "{}: {}", name, error.message);
    }
  }
}

Json seen_json(const Calibration& calibration) {
  Json seen = Json::object();
  for (const auto& [name, amax] : calibration.amax) {
    if (name.find(".mlp.") == std::string::npos && !name.ends_with(".k") && !name.ends_with(".v")) continue;
    seen[name] = {{"first", amax.first}, {"rest", amax.rest}};
  }
  return seen;
}
}  // namespace

int64_t available_memory_bytes() {
  std::ifstream in("/proc/meminfo");
  std::string name;
  int64_t kilobytes = 0;
  while (in >> name >> kilobytes) {
    if (name == "MemAvailable:") return kilobytes * 1024;
    in.ignore(64, '\n');
  }
  return 0;
}

int32_t calibration_rows(const QuantizeFlags& flags) {
  const int64_t wanted = flags.batch_size > 0 ? flags.batch_size * flags.calib_seq : std::max<int64_t>(4096, flags.calib_seq);
  if (wanted > 65536) raise(ErrorCode::invalid_argument, "--batch_size {} x --calib_seq {}: wanted at most 65536 tokens in one pass", flags.batch_size, flags.calib_seq);
  return static_cast<int32_t>((wanted + 63) / 64 * 64);
}

std::map<std::string, float> calibrate_for(const QuantizeFlags& flags, const QuantizeOptions& options, Backend& backend, Json& report) {
  const bool kv_scales = flags.kv_cache == "fp8";
  const fs::path state = partial_folder(options.target) / "amax.json";
  const bool calibrates = flags.amax.empty() && counts_of(flags.calib_size) != std::vector<int64_t>{0};
  if (std::error_code ignored; !calibrates) fs::remove(state, ignored);  // of a run with other flags
  if (options.recipe == Recipe::none || (options.recipe == Recipe::fp8_pb_wo && !kv_scales)) return {};
  const std::string config_json = read_config_json(options.source);
  const ModelConfig config = parse_model_config(config_json, (options.source / "config.json").string());
  Calibration seen;
  if (!flags.amax.empty()) {
    seen = parse_calibration(read_file(flags.amax), flags.amax);
    report = {{"amax_file", flags.amax}, {"samples", seen.num_samples}, {"tokens", seen.num_tokens}};
  } else {
    if (!calibrates) {
      report = {{"skipped", "--calib_size 0"}};
      fmt::print(stderr, "--calib_size 0: no input_scale, k_scale or v_scale is written\n");
      return {};
    }
    std::vector<fs::path> files;
    const CalibrationText text = samples_of(flags, options, config, files);
    if (flags.dataset.empty()) fmt::print(stderr, "calibrating with the {} samples that ship with the program; --calib-data names others\n", text.samples.size());
    int64_t tokens = 0;
    for (const auto& sample : text.samples) tokens += static_cast<int64_t>(sample.size());
    const ModelWeights weights = ModelWeights::load(options.source, config, parse_quant_config(config_json, "", options.source.string()));
    const TensorFiles tensors = TensorFiles::open(options.source);
    const bool all_bf16 = std::all_of(tensors.tensors().begin(), tensors.tensors().end(), [](const auto& t) { return t.second.tensor.dtype == DType::bf16; });
    fs::create_directories(state.parent_path());
    ProgressBar bar("calibrating", 1, "tokens");
    const int32_t most = std::max(calibration_rows(flags), static_cast<int32_t>(flags.calib_seq));
    const CalibrationOptions run{.samples = text.samples,
                                 .max_rows = static_cast<int32_t>(std::clamp<int64_t>((tokens + 63) / 64 * 64, 64, most)),
                                 .state = state,
                                 .fingerprint = fingerprint_of(text, options),
                                 .weights_are_mapped = all_bf16,
                                 .progress = [&](int64_t done, int64_t total) {
                                   bar.show(done, total, "");
                                   return !InterruptGuard::requested();
                                 }};
    try {
      seen = calibrate(config, weights, backend, run);
    } catch (const Error& error) {
      if (error.code != ErrorCode::corrupt) throw;
      fs::remove_all(state.parent_path());  // a bad source never becomes good by going on
      name_bad_weight(tensors);
      throw;
    }
    Json names = Json::array();
    for (size_t i = 0; i < files.size(); ++i) names.push_back({{"file", files[i].string()}, {"samples", text.from_file[i]}});
    report = {{"samples", seen.num_samples}, {"tokens", seen.num_tokens}, {"longest", flags.calib_seq}, {"bos", wants_bos(flags)}, {"own_set", flags.dataset.empty()}, {"device", backend.description()},
              {"seconds", seen.seconds}, {"resumed_samples", seen.resumed_samples}, {"files", names}};
  }
  std::vector<std::string> warnings;
  const auto scales = calibrated_scales(seen, config, options.recipe, kv_scales, warnings);
  for (const std::string& warning : warnings) fmt::print(stderr, "warning: {}\n", warning);
  report["warnings"] = warnings;
  report["amax"] = seen_json(seen);
  return scales;
}
}  // namespace nibble
