#include "model/assistant.h"

#include <algorithm>

#include "base/error.h"
#include "base/number_formats.h"

namespace nibble {
namespace {
// Sequences of one round; more go in several.
constexpr int32_t kMaxRows = 256;
// The query stands where the last token in the pages stands, not one further, where the newest token will.
constexpr int32_t kQueryOffset = -1;

Tensor view(const Tensor& scratch, int64_t rows, int64_t cols) { return {scratch.data, scratch.dtype, {rows, cols}}; }
Tensor view(const Tensor& scratch, int64_t rows, int64_t heads, int64_t d) { return {scratch.data, scratch.dtype, {rows, heads, d}}; }
}  // namespace

Assistant::Assistant(const AssistantConfig& config, const AssistantWeights& weights, const Gemma4Model& target, Backend& backend, int32_t max_drafts)
    : config_(config), weights_(weights), backend_(backend), source_(target.draft_source()), max_drafts_(max_drafts), max_rows_(std::min(kMaxRows, target.max_rows())),
      sliding_window_(target.kv_geometry().sliding_window) {
  if (!backend.drafts()) raise(ErrorCode::unsupported, "speculative decoding is not available on this device ({}); leave the --speculative flags out", backend.description());
  const auto prepare = [&](const LinearWeight& weight) { return backend_.prepare_linear(weight, ActivationQuant::none); };
  const ModelConfig& text = config.text;
  int64_t q_size = 0;
  for (int32_t i = 0; i < text.num_layers(); ++i) {
    const LayerWeights& w = weights.decoder.layers[static_cast<size_t>(i)];
    const LayerConfig& layer = text.layers[static_cast<size_t>(i)];
    layers_.push_back({.weights = &w, .config = layer, .q = prepare(w.q), .o = prepare(w.o), .gate = prepare(w.gate), .up = prepare(w.up), .down = prepare(w.down)});
    q_size = std::max(q_size, int64_t{text.num_attention_heads} * layer.head_dim);
    (layer.kind == LayerKind::full ? full_group_ : sliding_group_) = text.num_attention_heads / layer.num_kv_heads;
  }
  pre_ = prepare(weights.pre_projection);
  post_ = prepare(weights.post_projection);
  head_ = prepare(weights.decoder.head);

  const DType activations = source_.hidden.dtype;
  const int64_t hidden = text.hidden_size, backbone = config.backbone_hidden_size;
  const auto make = [&](DType dtype, int64_t cols) { return backend_.allocate(dtype, {max_rows_, cols}, "scratch of the assistant"); };
  joined_ = make(activations, 2 * backbone);
  x_ = make(DType::f32, hidden);
  h_ = make(activations, hidden);
  q_ = make(DType::f32, q_size);
  attended_ = make(activations, q_size);
  sublayer_ = make(DType::f32, hidden);
  gate_ = make(DType::f32, text.intermediate_size);
  up_ = make(DType::f32, text.intermediate_size);
  gated_ = make(activations, text.intermediate_size);
  final_ = make(activations, hidden);
  state_ = make(DType::f32, backbone);
  given_ = make(DType::f32, backbone);
  logits_ = make(DType::f32, text.vocab_size);
  chosen_ = backend_.allocate(DType::i32, {max_drafts, max_rows_}, "scratch of the assistant");
  for (const Layer& layer : layers_) {
    Rotary& rotary = layer.config.kind == LayerKind::full ? full_rotary_ : sliding_rotary_;
    if (!rotary.frequencies.empty()) continue;
    rotary.frequencies = rotary_frequencies(text.rope(layer.config.kind), layer.config.head_dim);
    rotary.cos = make(DType::f32, static_cast<int64_t>(rotary.frequencies.size()));
    rotary.sin = make(DType::f32, static_cast<int64_t>(rotary.frequencies.size()));
  }
}

void Assistant::set_rows(std::span<const DraftRow> rows) {
  ids_.clear();
  logit_rows_.clear();
  full_rows_.clear();
  sliding_rows_.clear();
  for (const DraftRow& row : rows) {
    NB_ASSERT(row.num_computed > 0, "a draft wants a computed position");
    const auto at = static_cast<int32_t>(ids_.size());
    full_rows_.push_back({at, 1, row.num_computed + kQueryOffset, row.full_pages});
    sliding_rows_.push_back({at, 1, row.num_computed + kQueryOffset, row.sliding_pages});
    ids_.push_back(row.token);
    logit_rows_.push_back(row.logit_row);
  }
}

StepPlan Assistant::plan(int32_t program) const {
  return {.ids = ids_, .full_rows = full_rows_, .sliding_rows = sliding_rows_, .logit_rows = logit_rows_, .full_group = full_group_, .sliding_group = sliding_group_,
          .sliding_window = sliding_window_, .program = program};
}

RotaryTable Assistant::table(const Rotary& rotary, int64_t rows) const {
  const auto pairs = static_cast<int64_t>(rotary.frequencies.size());
  return {view(rotary.cos, rows, pairs), view(rotary.sin, rows, pairs)};
}

// The queries of a round stand still: one table for all its drafts.
void Assistant::fill_rotary(int64_t rows) {
  if (!sliding_rotary_.frequencies.empty()) backend_.rotary({.frequencies = sliding_rotary_.frequencies, .sequences = sliding_rows_, .table = table(sliding_rotary_, rows)});
  if (!full_rotary_.frequencies.empty()) backend_.rotary({.frequencies = full_rotary_.frequencies, .sequences = full_rows_, .table = table(full_rotary_, rows)});
}

void Assistant::draft(std::span<const DraftRow> rows, int32_t num_drafts, int32_t* ids) {
  NB_ASSERT(num_drafts > 0 && num_drafts <= max_drafts_, "1 to max_drafts drafts");
  std::vector<int32_t> chosen(static_cast<size_t>(num_drafts * max_rows_));
  for (size_t begin = 0; begin < rows.size(); begin += static_cast<size_t>(max_rows_)) {
    const size_t n = std::min(rows.size() - begin, static_cast<size_t>(max_rows_));
    set_rows(rows.subspan(begin, n));
    backend_.run_step(plan(num_drafts), [&](int64_t padded, int64_t) {
      fill_rotary(padded);
      for (int32_t j = 0; j < num_drafts; ++j) {
        const bool first = j == 0;
        const Tensor previous = first ? Tensor{} : chosen_.slice_rows(j - 1, 1);
        run({.ids = first ? std::span<const int32_t>(ids_) : std::span<const int32_t>(), .chosen = previous, .table = source_.embed, .scale = source_.embed_scale,
             .round_to_bf16 = source_.hidden.dtype == DType::bf16, .hidden = first ? source_.hidden : view(state_, padded, config_.backbone_hidden_size),
             .hidden_rows = first ? std::span<const int32_t>(logit_rows_) : std::span<const int32_t>(), .out = view(joined_, padded, 2 * config_.backbone_hidden_size)},
            padded);
        backend_.argmax(view(logits_, padded, config_.text.vocab_size), chosen_.slice_rows(j, 1));
        if (j + 1 < num_drafts) backend_.linear(*post_, view(final_, padded, config_.text.hidden_size), view(state_, padded, config_.backbone_hidden_size));
      }
    });
    backend_.download(chosen_.slice_rows(0, num_drafts), chosen.data());
    for (size_t i = 0; i < n; ++i) {
      for (int32_t j = 0; j < num_drafts; ++j) ids[(begin + i) * static_cast<size_t>(num_drafts) + static_cast<size_t>(j)] = chosen[static_cast<size_t>(j * max_rows_) + i];
    }
  }
}

void Assistant::step(std::span<const DraftRow> rows, std::span<const float> hidden, float* logits, float* hidden_out) {
  const auto n = static_cast<int64_t>(rows.size()), backbone = int64_t{config_.backbone_hidden_size};
  set_rows(rows);
  for (int64_t i = 0; i < n; ++i) logit_rows_[static_cast<size_t>(i)] = static_cast<int32_t>(i);
  backend_.upload(hidden.data(), view(given_, n, backbone));
  backend_.run_step(plan(-1), [&](int64_t padded, int64_t) {
    fill_rotary(padded);
    run({.ids = ids_, .chosen = {}, .table = source_.embed, .scale = source_.embed_scale, .round_to_bf16 = source_.hidden.dtype == DType::bf16,
         .hidden = view(given_, padded, backbone), .hidden_rows = logit_rows_, .out = view(joined_, padded, 2 * backbone)},
        padded);
    backend_.linear(*post_, view(final_, padded, config_.text.hidden_size), view(state_, padded, backbone));
  });
  backend_.download(view(logits_, n, config_.text.vocab_size), logits);
  backend_.download(view(state_, n, backbone), hidden_out);
}

// From the joined input to logits_ and final_.
void Assistant::run(const DraftInputArgs& input, int64_t rows) {
  const int64_t hidden = config_.text.hidden_size;
  const float eps = config_.text.rms_norm_eps;
  const Tensor x = view(x_, rows, hidden);
  backend_.draft_input(input);
  backend_.linear_into(*pre_, input.out, x);
  backend_.rms_norm({.x = x, .weight = layers_[0].weights->input_norm, .out = view(h_, rows, hidden), .eps = eps});
  for (size_t i = 0; i < layers_.size(); ++i) run_layer(layers_[i], rows, i + 1 < layers_.size() ? layers_[i + 1].weights->input_norm : Tensor{});
  backend_.rms_norm({.x = x, .weight = weights_.decoder.final_norm, .out = view(final_, rows, hidden), .eps = eps});
  backend_.linear(*head_, view(final_, rows, hidden), view(logits_, rows, config_.text.vocab_size));
  backend_.softcap(view(logits_, rows, config_.text.vocab_size), config_.text.final_logit_softcapping);
}

// On entry h_ holds rms(x, input_norm); on return the same for the next layer.
void Assistant::run_layer(const Layer& layer, int64_t rows, const Tensor& next_norm) {
  const LayerWeights& w = *layer.weights;
  const int64_t hidden = config_.text.hidden_size, inner = config_.text.intermediate_size, heads = config_.text.num_attention_heads, d = layer.config.head_dim;
  const bool full = layer.config.kind == LayerKind::full;
  const float eps = config_.text.rms_norm_eps;
  const Tensor h = view(h_, rows, hidden), x = view(x_, rows, hidden), sublayer = view(sublayer_, rows, hidden), q = view(q_, rows, heads, d);
  const DraftSource::Pages& pages = full ? source_.full : source_.sliding;

  backend_.linear(*layer.q, h, view(q_, rows, heads * d));
  backend_.prepare_and_attend(QueryPrepareArgs{.q = q, .q_norm = w.q_norm, .rotary = table(full ? full_rotary_ : sliding_rotary_, rows), .eps = eps},
                              {.q = q, .k_pages = pages.k, .v_pages = pages.v, .out = view(attended_, rows, heads * d), .sequences = full ? full_rows_ : sliding_rows_,
                               .window = full ? 0 : sliding_window_});
  backend_.linear(*layer.o, view(attended_, rows, heads * d), sublayer);
  backend_.rms_norm_add({.x = sublayer, .weight = w.post_attention_norm, .residual = x, .scale = 1.0f, .next_weight = w.pre_feedforward_norm, .out = h, .eps = eps});
  backend_.gated_linear(*layer.gate, *layer.up, h, view(gate_, rows, inner), view(up_, rows, inner), view(gated_, rows, inner));
  backend_.linear(*layer.down, view(gated_, rows, inner), sublayer);
  backend_.rms_norm_add({.x = sublayer, .weight = w.post_feedforward_norm, .residual = x, .scale = w.layer_scalar, .next_weight = next_norm, .out = h, .eps = eps});
}
}  // namespace nibble
