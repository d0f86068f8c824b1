#include "app/quantize_command.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <nlohmann/json.hpp>

#include "app/interrupt.h"
#include "app/progress_bar.h"
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

// "10GB", "2GiB", "500MB", plain bytes.
int64_t bytes_of(const std::string& text) {
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

QuantizeOptions options_of(const QuantizeFlags& flags) {
  QuantizeOptions options;
  options.source = find_model_folder({flags.model_path, {}, {}});
  options.target = flags.export_path;
  options.recipe = choose<Recipe>("--qformat", flags.qformat, {{"nvfp4_mlp_only", Recipe::nvfp4_mlp_only}, {"fp8_pb_wo", Recipe::fp8_pb_wo}, {"none", Recipe::none}});
  options.search = choose<ScaleSearch>("--weight_calib_algorithm", flags.search, {{"mse", ScaleSearch::mse}, {"max", ScaleSearch::max}});
  options.kv_cache_fp8 = choose<bool>("--kv_cache_qformat", flags.kv_cache, {{"fp8", true}, {"fp8_cast", true}, {"none", false}});
  options.reexport_names = choose<bool>("--tensor-names", flags.tensor_names, {{"hub", false}, {"reexport", true}});
  options.max_shard_bytes = bytes_of(flags.max_shard_size);
  options.force = flags.force;
  options.threads = flags.threads;
  options.version = kVersion;
  return options;
}

void print_summary(const Json& r) {
  fmt::print("{}: {:.2f} GB -> {:.2f} GB in {}\n", r["target"].get<std::string>(), r["bytes_before"].get<double>() / 1e9, r["bytes_after"].get<double>() / 1e9, short_duration(r["seconds"]));
  if (!r["matrices"].empty()) {
    fmt::print("{} matrices, SQNR {:.2f} dB (max would give {:.2f} dB), worst {:.2f} dB: {}\n", r["quantized_matrices"].get<int64_t>(), r["sqnr_db"].get<double>(), r["sqnr_db_max"].get<double>(), r["worst_sqnr_db"].get<double>(),
               r["worst_matrix"].get<std::string>());
  }
  fmt::print("{}\n", r["verdict"]["text"].get<std::string>());
}
}  // namespace

void add_quantize_command(CLI::App& app, QuantizeFlags& flags) {
  app.add_option("MODEL,-m,--model-path,--model,--pyt_ckpt_path,--pyt-ckpt-path", flags.model_path, "BF16 model: a folder, an id in the local Hugging Face cache, or demo")->capture_default_str();
  app.add_option("-o,--export_path,--export-path", flags.export_path, "folder to write; new or empty")->required();
  app.add_option("-q,--qformat", flags.qformat, "nvfp4_mlp_only, fp8_pb_wo, none (a checked copy)")->capture_default_str();
  app.add_option("-a,--weight_calib_algorithm,--weight-calib-algorithm", flags.search, "mse (search every block's scale), max")->capture_default_str();
  app.add_option("-k,--kv_cache_qformat,--kv-cache-qformat", flags.kv_cache, "what the configuration says of the KV cache: fp8, fp8_cast (the same), none; no k_scale or v_scale is written")->capture_default_str();
  app.add_option("--tensor-names", flags.tensor_names, "of vision tensors: hub or reexport")->capture_default_str();
  app.add_option("--max-shard-size,--max_shard_size", flags.max_shard_size, "of one file: 10GB, 4GiB")->capture_default_str();
  app.add_option("--threads", flags.threads, "CPU threads (default: one per core)")->check(CLI::NonNegativeNumber);
  app.add_option("-r,--report", flags.report, "also put report.md and report.json into this folder");
  app.add_flag("-f,--force", flags.force, "replace what --export_path holds");
  app.add_flag("--trust_remote_code,--trust-remote-code", flags.trust_remote_code, "accepted, without effect");
  app.add_flag("--json", flags.json, "the report as JSON on stdout");
}

int run_quantize(const QuantizeFlags& flags) {
  const InterruptGuard interrupt;
  if (flags.trust_remote_code) fmt::print(stderr, "--trust_remote_code has no effect: no code of a checkpoint is ever run\n");
  QuantizeOptions options = options_of(flags);
  check_quantize_options(options);
  QuantizeReport report;
  try {
    ProgressBar bar("quantizing", 1e6, "MB");
    options.progress = [&](const QuantizeProgress& p) {
      bar.show(p.source_bytes_done, p.source_bytes_total, p.tensor);
      return !InterruptGuard::requested();
    };
    report = quantize_checkpoint(options);
  } catch (const Error& error) {
    if (error.code != ErrorCode::cancelled) throw;
    fmt::print(stderr, "{}\n", error.message);
    return 130;
  }
  const Json json = quantize_report_json(options, report, nullptr, nullptr);
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
}  // namespace nibble
