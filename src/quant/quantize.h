// A BF16 checkpoint to NVFP4 (MLP only) or FP8 128x128, in the files and names of ModelOpt's export.
//
// One source tensor at a time: mapped, quantized by rows on all threads, written at its final offset. Work goes on in `TARGET.partial`, with a journal of
// the tensors that are safely written; a run with the same input and options goes on from there. The folder gets its name when it is complete.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "kernels/quantize_weights.h"

namespace nibble {
class Backend;
enum class Recipe { none, nvfp4_mlp_only, fp8_pb_wo };  // none: a validated copy

struct QuantizeProgress {
  std::string tensor;
  int64_t source_bytes_done = 0, source_bytes_total = 0;
};

struct QuantizeOptions {
  std::filesystem::path source, target;
  Recipe recipe = Recipe::nvfp4_mlp_only;
  ScaleSearch search = ScaleSearch::mse;
  // NVFP4 with search max: A is the best of A * m for the matrix as a whole, rounded to bf16, m from 0.25 to 4, and gate and up take the larger one: the reference's "mse" without a
  // sweep of the block scales, to compare with.
  bool tensor_search = false;
  bool kv_cache_fp8 = true;                  // the configuration says FP8
  std::map<std::string, float> scales;       // input_scale, k_scale, v_scale from calibration, by full tensor name; may be empty
  int64_t max_shard_bytes = 10'000'000'000;
  int64_t sync_bytes = int64_t{1} << 30;     // of source tensors between two entries in the journal: what a crash can cost
  bool reexport_names = false;               // of vision tensors: as the exporters of mid-2026 wrote them
  bool force = false;                        // replace an existing folder
  int threads = 0;
  Backend* device = nullptr;                 // searches the scales if it quantizes(), to the same bytes; else the CPU does
  std::string version;                       // of the program, for `producer`
  std::function<bool(const QuantizeProgress&)> progress;  // false: stop here; what is done stays for the next run
};

struct MatrixReport {
  std::string name, format;
  int64_t parameters = 0;
  QuantError error;
};

struct QuantizeReport {
  int64_t bytes_before = 0, bytes_after = 0, bytes_resumed = 0;  // resumed: of source tensors that an earlier run had done
  int32_t num_tensors = 0, num_shards = 0;
  double seconds = 0;
  std::vector<MatrixReport> matrices;
};

// What can be refused before any work: a source that is quantized, incomplete or misshapen, a target that exists, a disk that is too small.
void check_quantize_options(const QuantizeOptions& options);

// The folder in which a run for this target works, and which becomes the target.
std::filesystem::path partial_folder(const std::filesystem::path& target);

// Names, sizes and times of a folder's safetensors files: changes when they change.
std::string describe_weight_files(const std::filesystem::path& folder);

// Raises: invalid_argument (already quantized, target exists), corrupt (naming the tensor), out_of_memory (disk), cancelled.
QuantizeReport quantize_checkpoint(const QuantizeOptions& options);

// The two configuration texts. `config_json` is the source's; the recipe's keys are added to it.
std::string quantized_config_json(const std::string& config_json, Recipe recipe, bool kv_cache_fp8, int num_layers, const std::string& version);
std::string hf_quant_config_json(Recipe recipe, bool kv_cache_fp8, int num_layers, const std::string& version);
}  // namespace nibble
