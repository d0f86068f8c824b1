// One forward step has one form, for prefill chunks, decode rows and verify chains alike: rows of tokens that belong to
// sequences, and the pages where each sequence's K and V lie. So chunked prefill, continuous batching and speculation are
// one code path.
//
// A row's result depends on its sequence alone: not on the other rows of the step, nor on how a prompt was cut into steps.
#pragma once

#include <cstdint>
#include <span>

#include "base/assert.h"
#include "kernels/candidates.h"
#include "model/soft_tokens.h"

namespace nibble {
// Rows [first_row, first_row + num_rows) of the step are the tokens at positions first_position, first_position + 1, ... of a sequence.
//
// Page i of a table holds positions [i * page_tokens, (i + 1) * page_tokens). There are two pools with page numbers of their own:
// full-attention layers keep every page; sliding layers need only those that overlap (first_position - sliding_window, end),
// older entries may be kNoPage. Both tables reach at least to the last position of this slice.
struct SequenceSlice {
  static constexpr int32_t kNoPage = -1;

  int32_t first_row = 0;
  int32_t num_rows = 0;
  int32_t first_position = 0;
  std::span<const int32_t> full_pages;
  std::span<const int32_t> sliding_pages;
};

struct Step {
  std::span<const int32_t> ids;              // [rows] token ids
  std::span<const SequenceSlice> sequences;  // cover the rows, in order, without gaps
  std::span<const int32_t> logit_rows;       // rows whose logits are wanted, ascending
  // Rows that hold soft tokens, ascending; their ids only have to be in the vocabulary. A picture may begin before its slice but must not go on behind it: its
  // rows see ahead to its end on sliding layers.
  std::span<const SoftRows> media;
};

// How K and V are kept, fixed when the model is loaded.
struct KvGeometry {
  int32_t page_tokens = 16;
  int32_t num_full_pages = 0;
  int32_t num_sliding_pages = 0;
  int32_t sliding_window = 0;       // a query sees itself and the sliding_window - 1 positions before it
  int64_t full_page_bytes = 0;      // one page of all full layers, K and V
  int64_t sliding_page_bytes = 0;   // one page of all sliding layers, K and V
};

// What the engine needs of a model; tests of the engine bring their own.
class ForwardModel {
 public:
  virtual ~ForwardModel() = default;
  virtual int32_t vocab_size() const = 0;
  virtual const KvGeometry& kv_geometry() const = 0;
  // Most rows that one step may have; a step with more is a caller's mistake.
  virtual int32_t max_rows() const = 0;
  virtual bool takes_images() const { return false; }
  virtual bool takes_audio() const { return false; }
  // logits: [logit_rows.size(), vocab_size] f32 on the host, after the final softcap. Writes the K and V of every row into its pages.
  virtual void forward(const Step& step, float* logits) = 0;
  // Asked after a step that failed: whether every later one will, too.
  virtual bool is_lost() { return false; }

  // A model on a device may keep the logits of a step there, of at most so many rows. forward(step, nullptr) then leaves them until the next step, and
  // candidates() and read_logits() tell what is wanted of them: most steps need a few numbers a row, not the vocabulary.
  virtual int32_t kept_logit_rows() const { return 0; }
  // As Backend::candidates, for the rows of the last step's logits.
  virtual void candidates(std::span<const LogitEdit>, const AllowedIds&, std::span<const float> /*temperatures*/, int32_t /*count*/, Candidate*, RowSummary*) { NB_ASSERT(false, "no logits are kept"); }
  virtual void read_logits(int32_t /*row*/, float* /*logits*/) { NB_ASSERT(false, "no logits are kept"); }
};

// A sequence whose next tokens are to be guessed, right after the step that gave its newest one.
struct DraftRow {
  int32_t token = 0;          // the newest, not yet in the pages
  int32_t logit_row = 0;      // which of the last step's logit rows it was chosen from
  int32_t num_computed = 0;   // positions in the pages, > 0; later ones may hold leftovers
  std::span<const int32_t> full_pages, sliding_pages;  // as in SequenceSlice, for a query at num_computed - 1
};

// Guesses. A wrong guess costs time, never output: the model checks every one.
class DraftModel {
 public:
  virtual ~DraftModel() = default;
  virtual int32_t max_drafts() const = 0;  // per sequence
  // ids: [rows.size(), num_drafts], the likely next tokens of each sequence in order.
  virtual void draft(std::span<const DraftRow> rows, int32_t num_drafts, int32_t* ids) = 0;
};
}  // namespace nibble
