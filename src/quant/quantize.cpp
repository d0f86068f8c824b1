#include "quant/quantize.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <set>

#include "base/clock.h"
#include "base/error.h"
#include "base/file_io.h"
#include "base/hash.h"
#include "base/number_formats.h"
#include "base/thread_pool.h"
#include "formats/model_config.h"
#include "formats/quant_config.h"
#include "formats/safetensors.h"
#include "kernels/backend.h"
#include "model/weight_names.h"
#include "model/weights.h"
#include "quant/forget_pages.h"
#include "quant/journal.h"
#include "quant/shard_writer.h"

namespace nibble {
namespace {
namespace fs = std::filesystem;
// linspace(0.25, 4, 39) in f32, from the nearer end.
const std::array<float, 39> kAmaxMultipliers = [] {
  std::array<float, 39> m{};
  const float step = (4.0f - 0.25f) / 38.0f;
  for (int i = 0; i < 39; ++i) m[static_cast<size_t>(i)] = i < 19 ? 0.25f + step * static_cast<float>(i) : 4.0f - step * static_cast<float>(38 - i);
  return m;
}();

enum class Form { copy, nvfp4, fp8 };

const char* format_name(Form form) { return form == Form::nvfp4 ? "NVFP4" : form == Form::fp8 ? "FP8 128x128" : "copied"; }

// One source tensor and what becomes of it.
struct Unit {
  std::string source_name, name;  // as stored; as written
  Tensor tensor;
  Form form = Form::copy;
  std::string module() const { return name.substr(0, name.size() - std::string_view(".weight").size()); }
};

// "language_model.layers.12.x" -> 12; -1 for what is in no layer.
int layer_of(const std::string& canonical) {
  constexpr std::string_view kPrefix = "language_model.layers.";
  return canonical.starts_with(kPrefix) ? std::stoi(canonical.substr(kPrefix.size())) : -1;
}

Form form_of(const std::string& canonical, const Tensor& tensor, Recipe recipe) {
  if (recipe == Recipe::none || layer_of(canonical) < 0 || !canonical.ends_with("_proj.weight") || tensor.shape.rank != 2) return Form::copy;
  if (recipe == Recipe::fp8_pb_wo) return Form::fp8;
  return canonical.find(".mlp.") != std::string::npos ? Form::nvfp4 : Form::copy;
}

// The vision tensors as the exporters of mid-2026 named them.
std::string reexport_name(const std::string& canonical) {
  for (const std::string_view part : {"vision_embedder.", "embed_vision."}) {
    if (!canonical.starts_with(part)) continue;
    return (part == "embed_vision." ? "embed_vision.multimodal_embedder." : "embed_vision.") + canonical.substr(part.size());
  }
  return canonical;
}

std::vector<Unit> list_units(const TensorFiles& files, const ModelConfig& config, const QuantizeOptions& options) {
  const Recipe recipe = options.recipe;
  std::vector<std::pair<int, Unit>> ordered;
  for (const auto& [stored_name, stored] : files.tensors()) {
    const std::string canonical = canonical_name(stored_name);
    if (is_ignored(canonical)) continue;
    const bool head = canonical == "lm_head.weight";
    if (head && config.tie_word_embeddings) continue;
    Unit unit{stored_name, head ? canonical : "model." + (options.reexport_names ? reexport_name(canonical) : canonical), stored.tensor, form_of(canonical, stored.tensor, recipe)};
    if (unit.form != Form::copy && stored.tensor.dtype != DType::bf16) raise(ErrorCode::unsupported, "{}: {} is {}, quantizing wants BF16", stored.file, stored_name, name_of(stored.tensor.dtype));
    if (unit.form == Form::nvfp4 && stored.tensor.cols() % kNvfp4Block != 0) raise(ErrorCode::unsupported, "{}: {} columns are not a multiple of 16", stored_name, stored.tensor.cols());
    const int layer = layer_of(canonical);
    const int place = layer >= 0 ? 1 + layer : canonical.starts_with("language_model.embed") ? 0 : canonical.starts_with("language_model") ? 100000 : 100001;
    ordered.emplace_back(place, std::move(unit));
  }
  std::stable_sort(ordered.begin(), ordered.end(), [](const auto& a, const auto& b) { return a.first != b.first ? a.first < b.first : a.second.name < b.second.name; });
  std::vector<Unit> units;
  for (auto& [place, unit] : ordered) units.push_back(std::move(unit));
  return units;
}

std::vector<PlannedTensor> outputs_of(const Unit& unit) {
  const int64_t n = unit.tensor.rows(), k = unit.tensor.cols();
  const std::string module = unit.form == Form::copy ? "" : unit.module();
  switch (unit.form) {
    case Form::copy: return {{unit.name, unit.tensor.dtype, unit.tensor.shape}};
    case Form::nvfp4: return {{unit.name, DType::u8, {n, k / 2}}, {module + ".weight_scale", DType::e4m3, {n, k / kNvfp4Block}}, {module + ".weight_scale_2", DType::f32, {}}};
    case Form::fp8: return {{unit.name, DType::e4m3, {n, k}}, {module + ".weight_scale", DType::f32, {(n + kFp8Block - 1) / kFp8Block, 1, (k + kFp8Block - 1) / kFp8Block, 1}}};
  }
  return {};
}

// Everything that decides the output: equal fingerprints may share a partial folder.
std::string fingerprint(const QuantizeOptions& options, const std::vector<Unit>& units, const std::string& config_json) {
  std::string text = fmt::format("{} {} {} {} {} {} {} {}\n{}\n", static_cast<int>(options.recipe), static_cast<int>(options.search), options.tensor_search, options.kv_cache_fp8, options.reexport_names, options.max_shard_bytes, options.version, fs::canonical(options.source).string(), config_json);
  for (const Unit& unit : units) text += fmt::format("{} {} {}\n", unit.source_name, unit.tensor.bytes(), static_cast<int>(unit.form));
  for (const auto& [name, scale] : options.scales) text += fmt::format("{} {:a}\n", name, scale);
  text += describe_weight_files(options.source);
  const Hash128 hash = hash_bytes(std::as_bytes(std::span(text)));
  return fmt::format("{:016x}{:016x}", hash.high, hash.low);
}

class Worker {
 public:
  Worker(const std::vector<Unit>& units, const QuantizeOptions& options, ShardWriter& writer)
      : search_(options.search), tensor_search_(options.tensor_search), device_(options.device && options.device->quantizes() ? options.device : nullptr), writer_(writer), threads_(options.threads) {
    for (const Unit& unit : units) by_name_[unit.name] = &unit;
  }

  QuantError run(const Unit& unit) {
    QuantError error;
    if (unit.form == Form::copy) {
      writer_.write(unit.name, unit.tensor.data, unit.tensor.bytes());
    } else {
      const float amax = tensor_amax(unit);
      const auto planned = outputs_of(unit);
      codes_.resize(static_cast<size_t>(planned[0].bytes()));
      scales_.resize(static_cast<size_t>(planned[1].bytes() + 3) / 4);  // floats: aligned for either kind of scale
      const Tensor codes{codes_.data(), planned[0].dtype, planned[0].shape}, scales{scales_.data(), planned[1].dtype, planned[1].shape};
      if (unit.form == Form::nvfp4) {
        const double max_error_sq = tensor_search_ ? quantize_nvfp4(unit, largest(unit)).error_sq : 0;
        error = quantize_nvfp4(unit, amax);
        if (tensor_search_) error.max_error_sq = max_error_sq;
        const float s2 = cpu::nvfp4_tensor_scale(amax);
        writer_.write(planned[2].name, &s2, sizeof s2);
      } else {
        const QuantizeFp8Args args{unit.tensor, search_, codes, scales};
        error = device_ ? device_->quantize_fp8(args) : cpu::quantize_fp8(args, threads_);
      }
      writer_.write(planned[0].name, codes_.data(), codes.bytes());
      writer_.write(planned[1].name, scales_.data(), scales.bytes());
    }
    forget_pages(unit.tensor);  // gate_proj's may be read twice
    return error;
  }

 private:
  // Into codes_ and scales_.
  QuantError quantize_nvfp4(const Unit& unit, float amax) {
    const auto planned = outputs_of(unit);
    codes_.resize(static_cast<size_t>(planned[0].bytes()));
    scales_.resize(static_cast<size_t>(planned[1].bytes() + 3) / 4);
    const QuantizeNvfp4Args args{unit.tensor, amax, search_, {codes_.data(), planned[0].dtype, planned[0].shape}, {scales_.data(), planned[1].dtype, planned[1].shape}};
    return device_ ? device_->quantize_nvfp4(args) : cpu::quantize_nvfp4(args, threads_);
  }

  // gate_proj and up_proj share one maximum under NVFP4.
  float tensor_amax(const Unit& unit) {
    float amax = own_amax(unit);
    if (unit.form != Form::nvfp4) return amax;
    for (const auto& [from, to] : {std::pair{".gate_proj.", ".up_proj."}, std::pair{".up_proj.", ".gate_proj."}}) {
      const size_t at = unit.name.find(from);
      if (at == std::string::npos) continue;
      std::string other = unit.name;
      other.replace(at, std::string_view(from).size(), to);
      if (const auto found = by_name_.find(other); found != by_name_.end()) amax = std::max(amax, own_amax(*found->second));
    }
    return amax;
  }
  float own_amax(const Unit& unit) {
    const auto at = amax_.find(unit.name);
    if (at != amax_.end()) return at->second;
    float amax = largest(unit);
    if (tensor_search_ && unit.form == Form::nvfp4 && amax > 0) {
      double least = INFINITY;
      const float whole = amax;
      for (const float m : kAmaxMultipliers) {
        // The reference searches with the product and keeps it rounded.
        if (const double error_sq = quantize_nvfp4(unit, whole * m).error_sq; error_sq < least) least = error_sq, amax = to_float(to_bf16(whole * m));
      }
    }
    return amax_[unit.name] = amax;
  }
  float largest(const Unit& unit) {
    try {
      return cpu::largest_magnitude(unit.tensor, threads_);
    } catch (const Error& error) {
      raise(error.code, "{}: {}", unit.source_name, error.message);
    }
  }

  ScaleSearch search_;
  bool tensor_search_;
  Backend* device_;
  ShardWriter& writer_;
  ThreadPool threads_;
  std::map<std::string, const Unit*> by_name_;
  std::map<std::string, float> amax_;
  std::vector<uint8_t> codes_;
  std::vector<float> scales_;
};

bool is_copied(const fs::path& path) {
  const std::string name = path.filename().string(), extension = path.extension().string();
  if (name == "config.json" || name == "hf_quant_config.json" || name.ends_with(".safetensors.index.json")) return false;
  return extension == ".json" || extension == ".jinja" || extension == ".model" || extension == ".txt" || name.starts_with("LICENSE") || name.starts_with("NOTICE");
}

fs::path normal(const fs::path& target) {
  const fs::path path = fs::absolute(target).lexically_normal();
  return path.has_filename() ? path : path.parent_path();
}

void check_target(const QuantizeOptions& options) {
  if (fs::exists(options.target) && !(fs::is_directory(options.target) && fs::is_empty(options.target)) && !options.force) {
    raise(ErrorCode::invalid_argument, "{}: exists and is not an empty folder; name another --export_path or give --force", options.target.string());
  }
  if (fs::exists(options.target) && fs::equivalent(options.source, options.target)) raise(ErrorCode::invalid_argument, "--export_path is the source folder itself");
}
}  // namespace

std::string describe_weight_files(const fs::path& folder) {
  std::set<std::string> files;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() == ".safetensors") files.insert(fmt::format("{} {} {}\n", entry.path().filename().string(), entry.file_size(), entry.last_write_time().time_since_epoch().count()));
  }
  std::string text;
  for (const std::string& line : files) text += line;
  return text;
}

fs::path partial_folder(const fs::path& target) { return normal(target).string() + ".partial"; }

void check_quantize_options(const QuantizeOptions& options) {
  const std::string source = options.source.string(), config_json = read_config_json(options.source);
  const ModelConfig config = parse_model_config(config_json, source + "/config.json");
  const fs::path hf_quant = options.source / "hf_quant_config.json";
  const QuantConfig quant = parse_quant_config(config_json, fs::exists(hf_quant) ? read_file(hf_quant) : "", source);
  if (quant.algo != QuantAlgo::none) raise(ErrorCode::invalid_argument, "{}: is already quantized ({} says {}); quantize wants the BF16 model", source, quant.source, quant.algo_name);
  check_target(options);
  (void)ModelWeights::load(options.source, config, quant);  // every tensor is there, none is unknown, all shapes fit

  int64_t wanted = 64 << 20;
  for (const Unit& unit : list_units(TensorFiles::open(options.source), config, options)) {
    for (const PlannedTensor& t : outputs_of(unit)) wanted += t.bytes();
  }
  const fs::path partial = partial_folder(options.target), parent = partial.parent_path();
  fs::create_directories(parent);
  if (fs::exists(partial)) {
    for (const auto& entry : fs::directory_iterator(partial)) wanted -= entry.is_regular_file() ? static_cast<int64_t>(entry.file_size()) : 0;  // allocated by an earlier run
  }
  const auto available = static_cast<int64_t>(fs::space(parent).available);
  if (wanted > available) {
    raise(ErrorCode::out_of_memory, "{}: {:.2f} GB are wanted on the disk, {:.2f} GB are free; free some or name another --export_path", options.target.string(), static_cast<double>(wanted) / 1e9, static_cast<double>(available) / 1e9);
  }
}

QuantizeReport quantize_checkpoint(const QuantizeOptions& given) {
  QuantizeOptions options = given;
  options.target = normal(options.target);
  const double began = monotonic_seconds();
  const std::string source = options.source.string(), config_json = read_config_json(options.source);
  const ModelConfig config = parse_model_config(config_json, source + "/config.json");
  check_quantize_options(options);

  const TensorFiles files = TensorFiles::open(options.source);
  const std::vector<Unit> units = list_units(files, config, options);
  std::vector<PlannedTensor> planned;
  QuantizeReport report;
  int64_t total = 0;
  std::set<std::string> scales_left;
  for (const auto& [name, scale] : options.scales) scales_left.insert(name);
  for (const Unit& unit : units) {
    total += unit.tensor.bytes();
    for (PlannedTensor& t : outputs_of(unit)) planned.push_back(std::move(t));
    // Scales of calibration lie beside the module that they belong to.
    if (!unit.name.ends_with(".weight")) continue;
    for (const char* kind : {".input_scale", ".k_scale", ".v_scale"}) {
      if (scales_left.erase(unit.module() + kind)) planned.push_back({unit.module() + kind, DType::f32, {}});
    }
  }
  for (const std::string& name : scales_left) planned.push_back({name, DType::f32, {}});  // v_scale where there is no v_proj
  report.bytes_before = total;

  const fs::path partial = partial_folder(options.target);
  fs::create_directories(partial);
  ShardWriter writer(partial, planned, options.max_shard_bytes);
  report.bytes_after = writer.total_bytes();
  report.num_tensors = static_cast<int32_t>(planned.size());
  report.num_shards = writer.num_shards();

  Journal journal(partial / "journal.jsonl", fingerprint(options, units, config_json));
  writer.open();
  for (const auto& [name, scale] : options.scales) writer.write(name, &scale, sizeof scale);

  Worker worker(units, options, writer);
  int64_t done = 0, unsynced = 0;
  const auto settle = [&] {
    writer.sync();
    journal.flush();
    unsynced = 0;
  };
  for (const Unit& unit : units) {
    if (options.progress && !options.progress({unit.name, done, total})) {
      settle();
      raise(ErrorCode::cancelled, "interrupted at {}; the same command goes on from here", unit.name);
    }
    QuantError error;
    if (const auto earlier = journal.find(unit.name)) {
      error = *earlier;
      report.bytes_resumed += unit.tensor.bytes();
    } else {
      try {
        error = worker.run(unit);
      } catch (const Error& failure) {
        // A bad source never becomes good by going on; a full disk may.
        if (failure.code == ErrorCode::corrupt) fs::remove_all(partial);
        throw;
      }
      journal.add(unit.name, error);
      unsynced += unit.tensor.bytes();
      if (unsynced >= options.sync_bytes) settle();
    }
    if (unit.form != Form::copy) report.matrices.push_back({unit.name, format_name(unit.form), unit.tensor.count(), error});
    done += unit.tensor.bytes();
  }
  settle();
  if (options.progress) options.progress({"", total, total});

  writer.write_index();
  for (const auto& entry : fs::directory_iterator(options.source)) {
    if (entry.is_regular_file() && is_copied(entry.path())) fs::copy_file(entry.path(), partial / entry.path().filename(), fs::copy_options::overwrite_existing);
  }
  write_file(partial / "config.json", quantized_config_json(config_json, options.recipe, options.kv_cache_fp8, config.num_layers(), options.version));
  if (options.recipe != Recipe::none) write_file(partial / "hf_quant_config.json", hf_quant_config_json(options.recipe, options.kv_cache_fp8, config.num_layers(), options.version));
  fs::remove(partial / "journal.jsonl");
  fs::remove(partial / "journal.jsonl.lock");
  if (fs::exists(options.target)) fs::remove_all(options.target);
  fs::rename(partial, options.target);
  report.seconds = monotonic_seconds() - began;
  return report;
}
}  // namespace nibble
