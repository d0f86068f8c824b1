// From a step's plan to its tables on the device: pinned memory, filled anew for each step and uploaded in one copy.
#pragma once

#include <cuda_runtime_api.h>

#include <compare>
#include <span>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/device_memory.h"
#include "kernels/cuda/step_tables.h"

namespace nibble::cuda {
// What a recorded step depends on: all else is in the tables, whose fixed part is laid out by these sizes alone.
struct StepSize {
  int program = 0;               // what the body calls (StepPlan)
  bool recorded = false;         // repeated as a graph: few rows of each sequence. The others take their number of rows as it is, and attention for many rows.
  int rows = 0, logit_rows = 0;  // rounded up
  bool long_tiles = false, one_row_tiles = true;
  int full_tiles = 0, sliding_tiles = 0, full_splits = 0, sliding_splits = 0;
  auto operator<=>(const StepSize&) const = default;
};

struct SequenceTiles {  // in the pool's tiles, and in its wide ones if it has many rows
  int32_t first_tile = 0, num_tiles = 0;
  WideSequence wide;
};

class StepTableUpload {
 public:
  explicit StepTableUpload(const CudaBackendOptions& options);
  ~StepTableUpload();
  StepTableUpload(const StepTableUpload&) = delete;
  StepTableUpload& operator=(const StepTableUpload&) = delete;

  // Waits until the step before has its tables. out_of_memory: more pages than the tables hold.
  StepSize fill(const StepPlan& plan, StepTables& tables, cudaStream_t stream);
  // Of the full or the sliding pool, by sequence; empty where none has many rows.
  std::span<const SequenceTiles> wide_of(bool full) const { return full ? full_tiles_ : sliding_tiles_; }

 private:
  CudaBackendOptions options_;
  std::vector<SequenceTiles> full_tiles_, sliding_tiles_;
  DeviceMemory device_;
  int32_t* host_ = nullptr;
  cudaEvent_t free_ = nullptr;  // the host's side may be written
};
}  // namespace nibble::cuda
