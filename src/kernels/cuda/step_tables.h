// What a step is about, on the device: uploaded in one copy before the kernels run, at addresses that a recorded graph may keep.
#pragma once

#include <cstdint>

namespace nibble::cuda {
// A tile of rows of one sequence for attention: rows [first_row, first_row + rows) at positions first_position, ...; its pages begin at pages[first_page].
struct AttentionTile {
  int32_t first_row, rows, first_position, first_page;
};

// 64 keys to be gathered for attention to many rows: their pages are pages[first_page ..], `keys` of them are there.
struct KeyTile {
  int32_t first_page, keys;
};

// A sequence of many rows, for the host: its tiles of kWideTileRows rows x heads, an even number, and its key tiles.
struct WideSequence {
  int32_t first_tile = 0, num_tiles = 0, first_key_tile = 0, num_key_tiles = 0, max_runs = 0;
};

struct PoolTables {              // of the full or the sliding layers
  const int32_t* slots = nullptr;        // [rows] page * kPageTokens + place of the row's K and V; -1: a row that pads the step
  const int32_t* pages = nullptr;        // all sequences' page tables, one after the other
  const AttentionTile* tiles = nullptr;  // [num_tiles]; those that pad have rows == 0 and the number of real rows as first_row
  int32_t num_tiles = 0;
  int32_t max_splits = 0;        // splits that the longest context of the step needs, rounded up to a bucket
  const AttentionTile* wide_tiles = nullptr;  // of sequences with many rows; first_page: the number of their key tile 0, were it gathered
  const KeyTile* key_tiles = nullptr;
};

struct StepTables {
  const int32_t* ids = nullptr;         // [rows]
  const int32_t* positions = nullptr;   // [rows]
  const int32_t* logit_rows = nullptr;  // [num_logit_rows]
  const int32_t* last_visible = nullptr;  // [rows] on sliding layers; nullptr: each row its own position
  PoolTables full, sliding;
};
}  // namespace nibble::cuda
