#include "app/quantize_command.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <nlohmann/json.hpp>

#include "app/fidelity_command.h"
#include "app/interrupt.h"
#include "app/model_loader.h"
#include "app/progress_bar.h"
#include "app/quantize_calibration.h"
#include "app/version.h"
#include "base/error.h"
#include "base/file_io.h"
#include "formats/model_folder.h"
#include "quant/quantize.h"
#include "quant/report.h"

namespace nibble {
namespace {
using Json = nlohmann::ordered_json;

template <typename T>
T choose(const char* flag, const std::string& value, std::initializer_list<std::pair<const char*, T>> choices) {
  std::string wanted;
  for (const auto& [name, result] : choices) {
    if (value == name) return result;
    wanted += (wanted.empty() ? "" : ", ") + std::string(name);
  }
  raise(ErrorCode::invalid_argument, "{} {}: wanted one of {}", flag, value, wanted);
}

QuantizeOptions options_of(const QuantizeFlags& flags) {
  QuantizeOptions options;
  options.source = find_model_folder({flags.model_path, {}, {}});
  options.target = flags.export_path;
  options.recipe = choose<Recipe>("--qformat", flags.qformat, {{"nvfp4_mlp_only", Recipe::nvfp4_mlp_only}, {"fp8_pb_wo", Recipe::fp8_pb_wo}, {"none", Recipe::none}});
  options.search = choose<ScaleSearch>("--weight_calib_algorithm", flags.search, {{"mse", ScaleSearch::mse}, {"max", ScaleSearch::max}, {"mse_tensor", ScaleSearch::max}});
  options.tensor_search = flags.search == "mse_tensor";
  if (options.tensor_search && options.recipe != Recipe::nvfp4_mlp_only) raise(ErrorCode::invalid_argument, "--weight_calib_algorithm mse_tensor: is of nvfp4_mlp_only alone; --qformat is {}", flags.qformat);
  options.kv_cache_fp8 = choose<bool>("--kv_cache_qformat", flags.kv_cache, {{"fp8", true}, {"fp8_cast", true}, {"none", false}});
  options.reexport_names = choose<bool>("--tensor-names", flags.tensor_names, {{"hub", false}, {"reexport", true}});
  options.max_shard_bytes = parse_shard_size(flags.max_shard_size);
  options.force = flags.force;
  options.threads = flags.threads;
  options.sync_bytes = flags.sync_mb * 1'000'000;
  options.version = kVersion;
  return options;
}

void print_summary(const Json& r) {
  fmt::print("{}: {:.2f} GB -> {:.2f} GB in {}\n", r["target"].get<std::string>(), r["bytes_before"].get<double>() / 1e9, r["bytes_after"].get<double>() / 1e9, short_duration(r["seconds"]));
  if (!r["matrices"].empty()) {
    fmt::print("{} matrices, SQNR {:.2f} dB (max would give {:.2f} dB), worst {:.2f} dB: {}\n", r["quantized_matrices"].get<int64_t>(), r["sqnr_db"].get<double>(), r["sqnr_db_max"].get<double>(), r["worst_sqnr_db"].get<double>(),
               r["worst_matrix"].get<std::string>());
  }
  const Json &calibration = r["calibration"], &fidelity = r["fidelity"];
  if (calibration.is_object() && calibration.contains("tokens")) {
    fmt::print("calibrated with {} samples, {} tokens{}\n", calibration["samples"].get<int64_t>(), calibration["tokens"].get<int64_t>(), calibration.value("own_set", false) ? " of the set that ships with the program" : "");
  }
  if (fidelity.is_object() && fidelity.contains("skipped")) fmt::print("not compared with BF16: {}\n", fidelity["skipped"].get<std::string>());
  fmt::print("{}\n", r["verdict"]["text"].get<std::string>());
}

// KL, top-1 agreement and perplexity ratio against the source; or why there are none.
Json fidelity_of(const QuantizeFlags& flags, const QuantizeOptions& options, const QuantizeReport& report, bool on_host) {
  if (flags.no_fidelity || options.recipe == Recipe::none) return nullptr;
  if (flags.prompts.empty()) {
    if (!std::filesystem::exists(options.source / "tokenizer.json")) return {{"skipped", "no tokenizer.json; give --prompts with ids"}};
    const int64_t wanted = report.bytes_before + report.bytes_after, there = available_memory_bytes();
    if (on_host && wanted > there / 10 * 8) {
      return {{"skipped", fmt::format("both models at once want {:.1f} GB of memory, {:.1f} GB are free; give --prompts to compare nevertheless", static_cast<double>(wanted) / 1e9, static_cast<double>(there) / 1e9)}};
    }
  }
  FidelityFlags fidelity{.reference = options.source.string(), .candidate = {}, .prompts = flags.prompts, .num_examples = flags.num_prompts};
  fidelity.candidate.model_path = options.target.string();
  fidelity.candidate.device = flags.device;
  fidelity.candidate.threads = flags.threads;
  return measure_fidelity(fidelity);
}

int run(const QuantizeFlags& flags) {
  if (flags.trust_remote_code) fmt::print(stderr, "--trust_remote_code has no effect: no code of a checkpoint is ever run\n");
  QuantizeOptions options = options_of(flags);
  check_quantize_options(options);
  ModelFlags device_flags;
  device_flags.device = flags.device;
  device_flags.threads = flags.threads;
  device_flags.max_rows = calibration_rows(flags);
  std::unique_ptr<Backend> backend = choose_backend(device_flags, false);
  const bool on_host = backend->on_host();
  Json calibration;
  options.scales = calibrate_for(flags, options, *backend, calibration);
  if (on_host) backend.reset();  // with the scratch of calibration; the quantizer has threads of its own
  options.device = backend.get();
  QuantizeReport report;
  {
    ProgressBar bar("quantizing", 1e6, "MB");
    options.progress = [&](const QuantizeProgress& p) {
      bar.show(p.source_bytes_done, p.source_bytes_total, p.tensor);
      return !InterruptGuard::requested();
    };
    report = quantize_checkpoint(options);
  }
  backend.reset();
  Json fidelity;
  try {
    fidelity = fidelity_of(flags, options, report, on_host);
  } catch (const Error& error) {
    if (error.code == ErrorCode::cancelled) fidelity = {{"skipped", "interrupted"}};
    else fidelity = {{"skipped", error.message}};
    fmt::print(stderr, "{} is complete, but was not compared with BF16: {}\n", options.target.string(), error.message);
  }
  const Json json = quantize_report_json(options, report, calibration, fidelity);
  const std::string markdown = quantize_report_markdown(json);
  std::vector<std::filesystem::path> folders{options.target};
  if (!flags.report.empty()) folders.emplace_back(flags.report);
  for (const std::filesystem::path& folder : folders) {
    std::filesystem::create_directories(folder);
    write_file(folder / "report.json", json.dump(1) + "\n");
    write_file(folder / "report.md", markdown);
  }
  if (flags.json) {
    fmt::print("{}\n", json.dump(1));
  } else {
    print_summary(json);
  }
  return 0;
}
}  // namespace

int64_t parse_shard_size(const std::string& text) {
  size_t used = 0;
  double number = 0;
  try {
    number = std::stod(text, &used);
  } catch (const std::exception&) {
  }
  const double unit = choose<double>("--max-shard-size", used > 0 ? text.substr(used) : "?", {{"", 1}, {"B", 1}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"KiB", 1024}, {"MiB", 1048576}, {"GiB", 1073741824}});
  if (!(number * unit >= 1000) || number * unit > 9e18) raise(ErrorCode::invalid_argument, "--max-shard-size {}: wanted at least 1KB", text);
  return static_cast<int64_t>(number * unit);
}

void add_quantize_command(CLI::App& app, QuantizeFlags& flags) {
  app.add_option("MODEL,-m,--model-path,--model,--pyt_ckpt_path,--pyt-ckpt-path", flags.model_path, "BF16 model: a folder, an id in the local Hugging Face cache, or demo")->capture_default_str();
  app.add_option("-o,--export_path,--export-path", flags.export_path, "folder to write; new or empty")->required();
  app.add_option("-q,--qformat", flags.qformat, "nvfp4_mlp_only, fp8_pb_wo, none (a checked copy)")->capture_default_str();
  app.add_option("-a,--weight_calib_algorithm,--weight-calib-algorithm", flags.search, "mse (search every block's scale), max, mse_tensor (NVFP4: search one factor a matrix)")->capture_default_str();
  app.add_option("-k,--kv_cache_qformat,--kv-cache-qformat", flags.kv_cache, "of the KV cache: fp8 (the configuration says FP8, k_scale and v_scale are written), fp8_cast (no scales), none")->capture_default_str();
  app.add_option("-d,--calib-data,--calib_data,--dataset", flags.dataset, "files to calibrate with, separated by commas: JSON lines with text, article, messages or ids, or plain text (default: a small set of our own)");
  app.add_option("--calib_size,--calib-size", flags.calib_size, "samples in all, from the files in turn; or a number for each file; 0: no calibration and no scales")->capture_default_str();
  app.add_option("--calib_seq,--calib-seq", flags.calib_seq, "longest sample, in tokens")->capture_default_str()->check(CLI::Range(2, 32768));
  app.add_option("--batch_size,--batch-size", flags.batch_size, "samples in one forward pass; 0: automatic")->capture_default_str()->check(CLI::NonNegativeNumber);
  app.add_option("--calib-bos,--calib_bos", flags.calib_bos, "whether samples begin with the BOS token: auto (as every served prompt does), on, off (as ModelOpt's recipe)")->capture_default_str();
  app.add_option("--amax", flags.amax, "amax.json of an earlier run, instead of a calibration");
  app.add_option("--device", flags.device, "where calibration, scale search and the comparison run: auto, cpu, cuda")->capture_default_str()->check(CLI::IsMember({"auto", "cpu", "cuda"}));
  app.add_option("--prompts", flags.prompts, "compare with BF16 on these: JSON lines with ids, text or messages (default: some of our own)");
  app.add_option("--num_prompts,--num-prompts", flags.num_prompts, "how many")->capture_default_str()->check(CLI::PositiveNumber);
  app.add_flag("--no-fidelity,--no_fidelity", flags.no_fidelity, "do not compare with BF16");
  app.add_option("--tensor-names", flags.tensor_names, "of vision tensors: hub or reexport")->capture_default_str();
  app.add_option("--max-shard-size,--max_shard_size", flags.max_shard_size, "of one file: 10GB, 4GiB")->capture_default_str();
  app.add_option("--sync-mb", flags.sync_mb, "source MB between two points from which an interrupted run goes on")->group("")->check(CLI::PositiveNumber);
  app.add_option("--threads", flags.threads, "CPU threads (default: one per core)")->check(CLI::NonNegativeNumber);
  app.add_option("-r,--report", flags.report, "also put report.md and report.json into this folder");
  app.add_flag("-f,--force", flags.force, "replace what --export_path holds");
  app.add_flag("--trust_remote_code,--trust-remote-code", flags.trust_remote_code, "accepted, without effect");
  app.add_flag("--json", flags.json, "the report as JSON on stdout");
}

int run_quantize(const QuantizeFlags& flags) {
  const InterruptGuard interrupt;
  try {
    return run(flags);
  } catch (const Error& error) {
    if (error.code != ErrorCode::cancelled) throw;
    fmt::print(stderr, "{}\n", error.message);
    return 130;
  }
}
}  // namespace nibble
