#include "kernels/cuda/step_table_upload.h"

#include <algorithm>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_prefill.h"

namespace nibble::cuda {
namespace {
constexpr int64_t kCapacity = int64_t{8} << 20;  // numbers
constexpr int kRecordedRows = 256;

// So that few records serve all steps.
int round_up_rows(int rows) {
  if (rows <= 8) return rows;
  if (rows <= 32) return (rows + 7) / 8 * 8;
  return rows <= 128 ? (rows + 15) / 16 * 16 : (rows + 63) / 64 * 64;
}
int power_of_two(int n) {
  int p = 1;
  while (p < n) p *= 2;
  return p;
}

// The tiles and key tiles of a sequence of many rows, behind those that are there; its page table begins at pages[first_page]. last_visible: of the step's rows; empty: their own.
WideSequence cut_wide(const PagedRows& s, int group, int window, std::span<const int32_t> last_visible, int32_t first_page, std::vector<AttentionTile>& tiles, std::vector<KeyTile>& key_tiles) {
  const int rows = kWideTileRows / group, last = s.first_position + s.num_rows - 1;
  const int lowest = (window > 0 ? std::max(0, s.first_position - window + 1) : 0) / kKeyTile;
  WideSequence wide{.first_tile = static_cast<int32_t>(tiles.size()), .first_key_tile = static_cast<int32_t>(key_tiles.size())};
  for (int first = 0; first < s.num_rows; first += 2 * rows) {
    const int32_t key_tile_0 = wide.first_key_tile - lowest;
    const int n = std::min(2 * rows, s.num_rows - first), upper = std::min(rows, n), lower = n - upper;
    tiles.push_back({s.first_row + first, upper, s.first_position + first, key_tile_0});
    tiles.push_back({s.first_row + first + upper, lower, lower > 0 ? s.first_position + first + upper : 0, key_tile_0});
    const int last_row = first + n - 1, last_key = last_visible.empty() ? s.first_position + last_row : last_visible[static_cast<size_t>(s.first_row + last_row)];
    wide.max_runs = std::max(wide.max_runs, attention_prefill_runs(s.first_position + first, last_key, window));
  }
  // Whole splits.
  const int tiles_per_split = split_keys(window) / kKeyTile, end = (last / split_keys(window) + 1) * tiles_per_split;
  for (int tile = lowest; tile < end; ++tile) {
    const int keys = std::clamp(last + 1 - tile * kKeyTile, 0, kKeyTile);
    key_tiles.push_back({first_page + (keys > 0 ? tile * (kKeyTile / kPagePositions) : 0), keys});
  }
  wide.num_tiles = static_cast<int32_t>(tiles.size()) - wide.first_tile;
  wide.num_key_tiles = static_cast<int32_t>(key_tiles.size()) - wide.first_key_tile;
  return wide;
}
}  // namespace

StepTableUpload::StepTableUpload(const CudaBackendOptions& options) : options_(options), device_(device_memory(kCapacity * 4, "tables of a step")) {
  check(cudaHostAlloc(reinterpret_cast<void**>(&host_), kCapacity * 4, cudaHostAllocDefault), "pinned memory");
  check(cudaEventCreateWithFlags(&free_, cudaEventDisableTiming), "cudaEventCreate");
}
StepTableUpload::~StepTableUpload() {
  if (host_) cudaFreeHost(host_);
  if (free_) cudaEventDestroy(free_);
}

StepSize StepTableUpload::fill(const StepPlan& plan, StepTables& tables, cudaStream_t stream) {
  check(cudaEventSynchronize(free_), "tables of a step");

  const int rows = static_cast<int>(plan.ids.size());
  StepSize size{.program = plan.program, .logit_rows = static_cast<int>(plan.logit_rows.size())};
  for (const PagedRows& s : plan.full_rows.empty() ? plan.sliding_rows : plan.full_rows) {
    size.long_tiles |= s.num_rows > 8;
    size.one_row_tiles &= s.num_rows == 1;
  }
  size.recorded = options_.record && size.program >= 0 && rows <= kRecordedRows && !size.long_tiles;
  size.rows = std::min(size.recorded || rows <= 8 ? round_up_rows(rows) : (rows + 7) / 8 * 8, static_cast<int>(options_.max_rows));
  if (size.logit_rows == rows) size.logit_rows = size.rows;

  // Splits and tiles of each pool, rounded up so that few records serve all contexts.
  struct Pool {
    std::span<const PagedRows> sequences;
    int group, window;
    int *tiles, *splits;
    PoolTables* tables;
  };
  const Pool pools[] = {{plan.full_rows, plan.full_group, 0, &size.full_tiles, &size.full_splits, &tables.full},
                        {plan.sliding_rows, plan.sliding_group, plan.sliding_window, &size.sliding_tiles, &size.sliding_splits, &tables.sliding}};
  for (const Pool& pool : pools) {
    const int tile_rows = attention_tile_rows(pool.group, 1, size.long_tiles);
    for (const PagedRows& s : pool.sequences) {
      *pool.tiles += (s.num_rows + tile_rows - 1) / tile_rows;
      for (int first = 0; first < s.num_rows; first += tile_rows) {
        const int last_row = std::min(first + tile_rows, s.num_rows) - 1;
        const bool ahead = pool.window > 0 && !plan.last_visible.empty();
        const int last = ahead ? plan.last_visible[static_cast<size_t>(s.first_row + last_row)] : s.first_position + last_row;
        *pool.splits = std::max(*pool.splits, attention_splits(s.first_position + first, last, pool.window));
      }
    }
    *pool.splits = power_of_two(*pool.splits);
    if (size.recorded) *pool.tiles = std::min(power_of_two(*pool.tiles), std::max(*pool.tiles, size.rows));
  }

  int64_t used = 0;
  const auto take = [&](int64_t count) {
    int32_t* const at = host_ + used;
    used += (count + 3) / 4 * 4;
    if (used > kCapacity) raise(ErrorCode::out_of_memory, "the page tables of a step exceed {} entries; lower --max-running-requests", kCapacity);
    return at;
  };
  const auto on_device = [&](const int32_t* host) { return static_cast<const int32_t*>(device_.get()) + (host - host_); };
  int32_t *ids = take(size.rows), *positions = take(size.rows), *logit_rows = take(size.logit_rows);
  std::fill(std::copy(plan.ids.begin(), plan.ids.end(), ids), ids + size.rows, 0);
  std::fill_n(positions, size.rows, 0);
  std::fill(std::copy(plan.logit_rows.begin(), plan.logit_rows.end(), logit_rows), logit_rows + size.logit_rows, 0);
  int32_t* const last_visible = plan.last_visible.empty() ? nullptr : take(size.rows);
  if (last_visible) std::fill(std::copy(plan.last_visible.begin(), plan.last_visible.end(), last_visible), last_visible + size.rows, 0);
  tables.last_visible = last_visible ? on_device(last_visible) : nullptr;
  tables.ids = on_device(ids);
  tables.positions = on_device(positions);
  tables.logit_rows = on_device(logit_rows);
  int32_t* tiles_of[2];
  int32_t* slots_of[2];
  for (int i = 0; i < 2; ++i) {
    slots_of[i] = take(size.rows);
    tiles_of[i] = take(int64_t{*pools[i].tiles} * 4);
    pools[i].tables->slots = on_device(slots_of[i]);
    pools[i].tables->tiles = reinterpret_cast<const AttentionTile*>(on_device(tiles_of[i]));
    pools[i].tables->num_tiles = *pools[i].tiles;
    pools[i].tables->max_splits = *pools[i].splits;
  }
  // From here on offsets depend on the contexts; tiles say where their pages begin.
  int32_t* const pages = host_ + used;
  for (int i = 0; i < 2; ++i) {
    const Pool& pool = pools[i];
    std::vector<SequenceTiles>& sequence_tiles = i == 0 ? full_tiles_ : sliding_tiles_;
    std::vector<AttentionTile> wide_tiles;
    std::vector<KeyTile> key_tiles;
    sequence_tiles.clear();
    pool.tables->pages = on_device(pages);
    std::fill_n(slots_of[i], size.rows, -1);
    auto* tile = reinterpret_cast<AttentionTile*>(tiles_of[i]);
    auto* const last_tile = tile + *pool.tiles;
    const int tile_rows = attention_tile_rows(pool.group, 1, size.long_tiles);
    for (const PagedRows& s : pool.sequences) {
      const int num_pages = (s.first_position + s.num_rows - 1) / kPageTokens + 1;
      int32_t* const table = take(num_pages);
      std::copy_n(s.pages.begin(), num_pages, table);
      for (int r = 0; r < s.num_rows; ++r) {
        const int position = s.first_position + r;
        positions[s.first_row + r] = position;
        slots_of[i][s.first_row + r] = table[position / kPageTokens] * kPageTokens + position % kPageTokens;
      }
      SequenceTiles& mine = sequence_tiles.emplace_back();
      mine.first_tile = static_cast<int32_t>(tile - reinterpret_cast<AttentionTile*>(tiles_of[i]));
      mine.num_tiles = (s.num_rows + tile_rows - 1) / tile_rows;
      if (!size.recorded && s.num_rows >= options_.wide_attention_rows) {
        mine.wide = cut_wide(s, pool.group, pool.window, pool.window > 0 ? plan.last_visible : std::span<const int32_t>(), static_cast<int32_t>(table - pages), wide_tiles, key_tiles);
      }
      for (int first = 0; first < s.num_rows; first += tile_rows) {
        *tile++ = {s.first_row + first, std::min(tile_rows, s.num_rows - first), s.first_position + first, static_cast<int32_t>(table - pages)};
      }
    }
    while (tile < last_tile) *tile++ = {rows, 0, 0, 0};
    if (wide_tiles.empty()) {
      sequence_tiles.clear();
      continue;
    }
    auto* const wide_table = reinterpret_cast<AttentionTile*>(take(static_cast<int64_t>(wide_tiles.size()) * 4));
    auto* const key_table = reinterpret_cast<KeyTile*>(take(static_cast<int64_t>(key_tiles.size()) * 2));
    std::copy(wide_tiles.begin(), wide_tiles.end(), wide_table);
    std::copy(key_tiles.begin(), key_tiles.end(), key_table);
    pool.tables->wide_tiles = reinterpret_cast<const AttentionTile*>(on_device(reinterpret_cast<int32_t*>(wide_table)));
    pool.tables->key_tiles = reinterpret_cast<const KeyTile*>(on_device(reinterpret_cast<int32_t*>(key_table)));
  }
  check(cudaMemcpyAsync(device_.get(), host_, static_cast<size_t>(used) * 4, cudaMemcpyHostToDevice, stream), "tables of a step");
  check(cudaEventRecord(free_, stream), "tables of a step");
  return size;
}
}  // namespace nibble::cuda
