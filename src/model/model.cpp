#include "model/model.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "base/error.h"
#include "base/number_formats.h"

namespace nibble {
namespace {
// The first n rows of a scratch matrix, as a matrix of `cols` columns (scratch is as wide as the widest layer).
Tensor view(const Tensor& scratch, int64_t rows, int64_t cols) { return {scratch.data, scratch.dtype, {rows, cols}}; }
Tensor view(const Tensor& scratch, int64_t rows, int64_t heads, int64_t d) { return {scratch.data, scratch.dtype, {rows, heads, d}}; }
float embed_scale(int64_t hidden) { return to_float(to_bf16(std::sqrt(static_cast<float>(hidden)))); }
}  // namespace

int64_t page_bytes(const ModelConfig& config, LayerKind kind, DType kv_cache) {
  int64_t values = 0;
  for (const LayerConfig& layer : config.layers) {
    if (layer.kind == kind) values += int64_t{2} * layer.num_kv_heads * layer.head_dim * kPageTokens;
  }
  return values * size_of(kv_cache);
}

std::vector<float> rotary_frequencies(const RopeConfig& rope, int32_t head_dim) {
  std::vector<float> frequencies;
  const auto pairs = static_cast<int64_t>(rope.rotary_fraction * head_dim / 2);
  for (int64_t p = 0; p < pairs; ++p) {
    // The exponent's denominator is the whole head_dim, also when only some pairs rotate.
    frequencies.push_back(static_cast<float>(std::pow(rope.theta, -2.0 * static_cast<double>(p) / head_dim) / rope.factor));
  }
  return frequencies;
}

Gemma4Model::Gemma4Model(const ModelConfig& config, const ModelWeights& weights, const ModelOptions& options, Backend& backend)
    : config_(config), weights_(weights), options_(options), backend_(backend) {
  NB_ASSERT(options.activations == DType::bf16 || options.activations == DType::f32, "activations are bf16 or f32");
  geometry_ = {.page_tokens = kPageTokens,
               .num_full_pages = options.num_full_pages,
               .num_sliding_pages = options.num_sliding_pages,
               .sliding_window = config.sliding_window,
               .full_page_bytes = page_bytes(config, LayerKind::full, options.kv_cache),
               .sliding_page_bytes = page_bytes(config, LayerKind::sliding, options.kv_cache)};
  prepare_layers();
  allocate_scratch();
  media_ = std::make_unique<MediaEmbedder>(config, weights, options.activations, options.max_rows, backend);
}

void Gemma4Model::prepare_layers() {
  const auto prepare = [&](const LinearWeight& weight) { return backend_.prepare_linear(weight, options_.activation_quant); };
  for (int32_t i = 0; i < config_.num_layers(); ++i) {
    const LayerWeights& w = weights_.layers[static_cast<size_t>(i)];
    Layer layer{.weights = &w, .config = config_.layers[static_cast<size_t>(i)], .q = prepare(w.q), .k = prepare(w.k), .v = w.v ? prepare(*w.v) : nullptr,
                .o = prepare(w.o), .gate = prepare(w.gate), .up = prepare(w.up), .down = prepare(w.down), .k_pages = {}, .v_pages = {}};
    const int64_t pages = layer.config.kind == LayerKind::full ? options_.num_full_pages : options_.num_sliding_pages;
    const int64_t heads = layer.config.num_kv_heads, d = layer.config.head_dim;
    layer.k_pages = backend_.allocate(options_.kv_cache, {pages, heads, d, kPageTokens}, "KV cache (lower it with --max-total-tokens)");
    layer.v_pages = backend_.allocate(options_.kv_cache, {pages, heads, kPageTokens, d}, "KV cache (lower it with --max-total-tokens)");
    layers_.push_back(std::move(layer));
  }
  head_ = prepare(weights_.head);
}

void Gemma4Model::allocate_scratch() {
  int64_t q_size = 0, kv_size = 0;
  for (const LayerConfig& layer : config_.layers) {
    q_size = std::max(q_size, int64_t{config_.num_attention_heads} * layer.head_dim);
    kv_size = std::max(kv_size, int64_t{layer.num_kv_heads} * layer.head_dim);
  }
  const int64_t rows = options_.max_rows, hidden = config_.hidden_size, inner = config_.intermediate_size;
  const auto make = [&](DType dtype, int64_t cols) { return backend_.allocate(dtype, {rows, cols}, "scratch (lower it with --chunked-prefill-size)"); };
  x_ = make(DType::f32, hidden);
  h_ = make(options_.activations, hidden);
  q_ = make(DType::f32, q_size);
  k_ = make(DType::f32, kv_size);
  v_ = make(DType::f32, kv_size);
  attended_ = make(options_.activations, q_size);
  sublayer_ = make(DType::f32, hidden);
  gate_ = make(DType::f32, inner);
  up_ = make(DType::f32, inner);
  gated_ = make(options_.activations, inner);
  last_ = make(DType::f32, hidden);
  last_normed_ = make(options_.activations, hidden);
  if (!backend_.on_host()) logits_ = backend_.allocate(DType::f32, {std::min<int64_t>(rows, 256), config_.vocab_size}, "logits");

  for (const LayerKind kind : {LayerKind::sliding, LayerKind::full}) {
    const auto layer = std::find_if(config_.layers.begin(), config_.layers.end(), [&](const LayerConfig& l) { return l.kind == kind; });
    if (layer == config_.layers.end()) continue;
    Rotary& rotary = kind == LayerKind::full ? full_rotary_ : sliding_rotary_;
    rotary.frequencies = rotary_frequencies(config_.rope(kind), layer->head_dim);
    const auto pairs = static_cast<int64_t>(rotary.frequencies.size());
    rotary.cos = make(DType::f32, pairs);
    rotary.sin = make(DType::f32, pairs);
  }
}

RotaryTable Gemma4Model::fill_rotary(const Rotary& rotary, std::span<const PagedRows> sequences, int64_t rows) {
  const auto pairs = static_cast<int64_t>(rotary.frequencies.size());
  const RotaryTable table{view(rotary.cos, rows, pairs), view(rotary.sin, rows, pairs)};
  if (pairs > 0) backend_.rotary({.frequencies = rotary.frequencies, .sequences = sequences, .table = table});
  return table;
}

void Gemma4Model::forward(const Step& step, float* logits) {
  const auto rows = static_cast<int64_t>(step.ids.size()), wanted = static_cast<int64_t>(step.logit_rows.size());
  NB_ASSERT(rows > 0 && rows <= options_.max_rows, "a step must have 1 to max_rows rows");
  full_rows_.clear();
  sliding_rows_.clear();
  for (const SequenceSlice& s : step.sequences) {
    full_rows_.push_back({s.first_row, s.num_rows, s.first_position, s.full_pages});
    sliding_rows_.push_back({s.first_row, s.num_rows, s.first_position, s.sliding_pages});
  }
  fill_last_visible(step);
  const Tensor& out = logits_ ? logits_ : Tensor{logits, DType::f32, {wanted, config_.vocab_size}};
  const bool at_once = wanted > 0 && wanted <= out.rows();
  const auto group = [&](LayerKind kind) {
    for (const Layer& layer : layers_) {
      if (layer.config.kind == kind) return config_.num_attention_heads / layer.config.num_kv_heads;
    }
    return 1;
  };
  backend_.run_step({.ids = step.ids, .full_rows = full_rows_, .sliding_rows = sliding_rows_, .logit_rows = step.logit_rows, .full_group = group(LayerKind::full),
                     .sliding_group = group(LayerKind::sliding), .sliding_window = config_.sliding_window, .last_visible = last_visible_, .program = step.media.empty() ? 0 : -1},
                    [&](int64_t padded_rows, int64_t padded_wanted) { run_layers(step, padded_rows, padded_wanted, at_once ? out : Tensor{}); });
  NB_ASSERT(logits || at_once || wanted == 0, "logits are kept for kept_logit_rows() rows at most");
  if (!logits_ || wanted == 0 || !logits) return;
  // The device keeps a part of the logits at a time.
  for (int64_t done = 0; done < wanted; done += out.rows()) {
    const int64_t n = std::min(out.rows(), wanted - done);
    if (!at_once) run_head(last_normed_.slice_rows(done, n), view(logits_, n, config_.vocab_size));
    backend_.download(view(logits_, n, config_.vocab_size), logits + done * config_.vocab_size);
  }
}

// Pictures see themselves whole, on sliding layers; full layers stay causal.
void Gemma4Model::fill_last_visible(const Step& step) {
  last_visible_.clear();
  const auto is_picture = [](const SoftRows& rows) { return rows.tokens->is_picture(); };
  if (!config_.image_blocks_see_themselves || std::none_of(step.media.begin(), step.media.end(), is_picture)) return;
  for (const SequenceSlice& s : step.sequences) {
    for (int32_t i = 0; i < s.num_rows; ++i) last_visible_.push_back(s.first_position + i);
  }
  for (const SoftRows& rows : step.media) {
    if (!is_picture(rows)) continue;
    NB_ASSERT(rows.first_token + rows.num_rows == rows.tokens->count, "a picture must end in the step that holds its rows");
    std::fill_n(last_visible_.begin() + rows.first_row, rows.num_rows, rows.tokens->end() - 1);
  }
}

void Gemma4Model::candidates(std::span<const LogitEdit> edits, const AllowedIds& allowed, std::span<const float> temperatures, int32_t count, Candidate* candidates, RowSummary* summaries) {
  backend_.candidates(view(logits_, static_cast<int64_t>(temperatures.size()), config_.vocab_size), edits, allowed, temperatures, count, candidates, summaries);
}

void Gemma4Model::read_logits(int32_t row, float* logits) { backend_.download(logits_.slice_rows(row, 1), logits); }

void Gemma4Model::run_layers(const Step& step, int64_t rows, int64_t wanted, const Tensor& logits) {
  const RotaryTable sliding = fill_rotary(sliding_rotary_, sliding_rows_, rows), full = fill_rotary(full_rotary_, full_rows_, rows);
  const int64_t hidden = config_.hidden_size;
  backend_.embed({.ids = step.ids, .table = weights_.embed, .scale = embed_scale(hidden), .round_to_bf16 = options_.activations == DType::bf16,
                  .out = view(x_, rows, hidden)});
  media_->embed(step.media, view(x_, rows, hidden));
  backend_.rms_norm({.x = view(x_, rows, hidden), .weight = layers_[0].weights->input_norm, .out = view(h_, rows, hidden), .eps = config_.rms_norm_eps});
  for (size_t i = 0; i < layers_.size(); ++i) {
    const bool is_full = layers_[i].config.kind == LayerKind::full;
    const Tensor* next_norm = i + 1 < layers_.size() ? &layers_[i + 1].weights->input_norm : nullptr;
    run_layer(layers_[i], is_full ? full : sliding, is_full ? full_rows_ : sliding_rows_, rows, next_norm);
  }
  if (wanted == 0) return;
  backend_.gather_rows(view(x_, rows, hidden), step.logit_rows, view(last_, wanted, hidden));
  backend_.rms_norm({.x = view(last_, wanted, hidden), .weight = weights_.final_norm, .out = view(last_normed_, wanted, hidden), .eps = config_.rms_norm_eps});
  if (logits) run_head(view(last_normed_, wanted, hidden), view(logits, wanted, config_.vocab_size));
}

void Gemma4Model::run_head(const Tensor& normed, const Tensor& logits) {
  backend_.linear(*head_, normed, logits);
  backend_.softcap(logits, config_.final_logit_softcapping);
}

// On entry h_ holds rms(x, input_norm); on return the same for the next layer.
void Gemma4Model::run_layer(Layer& layer, const RotaryTable& rotary, std::span<const PagedRows> sequences, int64_t rows, const Tensor* next_norm) {
  const LayerWeights& w = *layer.weights;
  const int64_t hidden = config_.hidden_size, inner = config_.intermediate_size;
  const int64_t heads = config_.num_attention_heads, kv_heads = layer.config.num_kv_heads, d = layer.config.head_dim;
  const Tensor h = view(h_, rows, hidden), x = view(x_, rows, hidden), sublayer = view(sublayer_, rows, hidden);

  const Backend::LinearJob projections[] = {{layer.q.get(), view(q_, rows, heads * d)}, {layer.k.get(), view(k_, rows, kv_heads * d)}, {layer.v.get(), view(v_, rows, kv_heads * d)}};
  backend_.linear_group(std::span(projections, layer.v ? 3 : 2), h);
  const Tensor q = view(q_, rows, heads, d), k = view(k_, rows, kv_heads, d), v = layer.v ? view(v_, rows, kv_heads, d) : k;
  const int32_t window = layer.config.kind == LayerKind::sliding ? config_.sliding_window : 0;
  backend_.prepare_and_attend(QkvPrepareArgs{.q = q, .k = k, .v = v, .q_norm = w.q_norm, .k_norm = w.k_norm, .rotary = rotary, .k_pages = layer.k_pages, .v_pages = layer.v_pages,
                                             .sequences = sequences, .eps = config_.rms_norm_eps},
                              {.q = q, .k_pages = layer.k_pages, .v_pages = layer.v_pages, .out = view(attended_, rows, heads * d), .sequences = sequences, .window = window,
                               .last_visible = window > 0 ? std::span<const int32_t>(last_visible_) : std::span<const int32_t>()});
  backend_.linear(*layer.o, view(attended_, rows, heads * d), sublayer);
  backend_.rms_norm_add({.x = sublayer, .weight = w.post_attention_norm, .residual = x, .scale = 1.0f, .next_weight = w.pre_feedforward_norm, .out = h,
                         .eps = config_.rms_norm_eps});

  backend_.gated_linear(*layer.gate, *layer.up, h, view(gate_, rows, inner), view(up_, rows, inner), view(gated_, rows, inner));
  backend_.linear(*layer.down, view(gated_, rows, inner), sublayer);
  backend_.rms_norm_add({.x = sublayer, .weight = w.post_feedforward_norm, .residual = x, .scale = w.layer_scalar,
                         .next_weight = next_norm ? *next_norm : Tensor{}, .out = h, .eps = config_.rms_norm_eps});
}

DraftSource Gemma4Model::draft_source() const {
  DraftSource source{.hidden = last_normed_, .embed = weights_.embed, .embed_scale = embed_scale(config_.hidden_size), .full = {}, .sliding = {}};
  for (const Layer& layer : layers_) (layer.config.kind == LayerKind::full ? source.full : source.sliding) = {layer.k_pages, layer.v_pages};
  return source;
}

int64_t Gemma4Model::prepared_bytes() const {
  int64_t bytes = head_->bytes;
  for (const Layer& layer : layers_) {
    for (const auto* linear : {&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down}) {
      if (*linear) bytes += (*linear)->bytes;
    }
  }
  return bytes;
}

std::string Gemma4Model::kernels() const {
  std::map<std::string, int> counts{{head_->kernel, 1}};
  for (const Layer& layer : layers_) {
    for (const auto* linear : {&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down}) {
      if (*linear) ++counts[(*linear)->kernel];
    }
  }
  std::string text;
  for (const auto& [kernel, count] : counts) text += fmt::format("{}{} x{}", text.empty() ? "" : ", ", kernel, count);
  return text;
}
}  // namespace nibble
