// What every op demands of its arguments; the same for all backends.
#include "kernels/attention.h"
#include "kernels/draft.h"
#include "kernels/embed.h"
#include "kernels/gelu_gate.h"
#include "kernels/linear.h"
#include "kernels/rms_norm.h"

namespace nibble {
namespace {
bool is_activation(const Tensor& t) { return t.dtype == DType::bf16 || t.dtype == DType::f32; }
bool same_matrix(const Tensor& a, const Tensor& b) { return a.rows() == b.rows() && a.cols() == b.cols(); }
bool is_vector(const Tensor& t, int64_t n) { return t && t.dtype == DType::bf16 && t.count() == n; }
}  // namespace

void validate(const RmsNormArgs& a) {
  NB_ASSERT(a.x && a.x.dtype == DType::f32, "x must be f32");
  NB_ASSERT(is_activation(a.out) && same_matrix(a.x, a.out), "out must be bf16 or f32 of x's shape");
  NB_ASSERT(is_vector(a.weight, a.x.cols()), "weight must be [hidden] bf16");
}

void validate(const RmsNormAddArgs& a) {
  NB_ASSERT(a.x && a.x.dtype == DType::f32 && a.residual.dtype == DType::f32 && same_matrix(a.x, a.residual), "x and residual must be f32 of one shape");
  NB_ASSERT(is_vector(a.weight, a.x.cols()), "weight must be [hidden] bf16");
  if (a.next_weight) {
    NB_ASSERT(is_vector(a.next_weight, a.x.cols()), "next_weight must be [hidden] bf16");
    NB_ASSERT(is_activation(a.out) && same_matrix(a.x, a.out), "out must be bf16 or f32 of x's shape");
  }
}

void validate(const EmbedArgs& a) {
  NB_ASSERT(a.table && a.table.dtype == DType::bf16 && a.out.dtype == DType::f32, "table must be bf16, out f32");
  NB_ASSERT(a.out.rows() == static_cast<int64_t>(a.ids.size()) && a.out.cols() == a.table.cols(), "out must be [ids, hidden]");
  for (const int32_t id : a.ids) NB_ASSERT(id >= 0 && id < a.table.rows(), "token id outside the vocabulary");
}

void validate(const GeluGateArgs& a) {
  NB_ASSERT(a.gate.dtype == DType::f32 && a.up.dtype == DType::f32 && same_matrix(a.gate, a.up), "gate and up must be f32 of one shape");
  NB_ASSERT(is_activation(a.out) && same_matrix(a.gate, a.out), "out must be bf16 or f32 of gate's shape");
}

namespace {
void validate_pages(const Tensor& k, const Tensor& v, int64_t head_dim) {
  NB_ASSERT(k.dtype == v.dtype && (is_activation(k) || k.dtype == DType::e4m3), "pages must be f32, bf16 or e4m3");
  NB_ASSERT(k.shape.rank == 4 && k.shape[2] == head_dim && k.shape[3] == kPageTokens, "k pages must be [pages, kv_heads, head_dim, 16]");
  NB_ASSERT(v.shape.rank == 4 && v.shape[2] == kPageTokens && v.shape[3] == head_dim, "v pages must be [pages, kv_heads, 16, head_dim]");
  NB_ASSERT(k.shape[0] == v.shape[0] && k.shape[1] == v.shape[1], "k and v pages must agree");
}
}  // namespace

void validate(const QkvPrepareArgs& a) {
  NB_ASSERT(a.q.shape.rank == 3 && a.k.shape.rank == 3 && a.v.shape == a.k.shape, "q, k, v must be [rows, heads, head_dim]");
  NB_ASSERT(a.q.dtype == DType::f32 && a.k.dtype == DType::f32 && a.v.dtype == DType::f32, "q, k, v must be f32");
  const int64_t head_dim = a.q.shape[2];
  NB_ASSERT(a.k.shape[2] == head_dim && a.k.shape[0] == a.q.shape[0], "k must have q's rows and head_dim");
  NB_ASSERT(is_vector(a.q_norm, head_dim) && is_vector(a.k_norm, head_dim), "norm weights must be [head_dim] bf16");
  NB_ASSERT(a.rotary.cos.cols() <= head_dim / 2 && a.rotary.cos.rows() >= a.q.shape[0], "rotary table too small");
  validate_pages(a.k_pages, a.v_pages, head_dim);
  NB_ASSERT(a.k_pages.shape[1] == a.k.shape[1], "pages must have k's heads");
}

void validate(const AttentionArgs& a) {
  NB_ASSERT(a.q.shape.rank == 3 && a.q.dtype == DType::f32, "q must be [rows, heads, head_dim] f32");
  validate_pages(a.k_pages, a.v_pages, a.q.shape[2]);
  NB_ASSERT(a.q.shape[1] % a.k_pages.shape[1] == 0, "heads must be a multiple of kv_heads");
  NB_ASSERT(is_activation(a.out) && a.out.rows() == a.q.shape[0] && a.out.cols() == a.q.shape[1] * a.q.shape[2], "out must be [rows, heads * head_dim]");
}

void validate(const DraftInputArgs& a) {
  const int64_t rows = a.out.rows(), hidden = a.table.cols();
  NB_ASSERT(a.table.dtype == DType::bf16 && is_activation(a.hidden) && is_activation(a.out), "table must be bf16, hidden and out bf16 or f32");
  NB_ASSERT(a.hidden.cols() == hidden && a.out.cols() == 2 * hidden, "out must be [rows, 2 * hidden]");
  NB_ASSERT(a.ids.empty() ? a.chosen.dtype == DType::i32 && a.chosen.count() >= rows : static_cast<int64_t>(a.ids.size()) <= rows, "one id per row");
}

void validate(const QueryPrepareArgs& a) {
  NB_ASSERT(a.q.shape.rank == 3 && a.q.dtype == DType::f32, "q must be [rows, heads, head_dim] f32");
  NB_ASSERT(is_vector(a.q_norm, a.q.shape[2]), "q_norm must be [head_dim] bf16");
  NB_ASSERT(!a.rotary.cos || (a.rotary.cos.cols() <= a.q.shape[2] / 2 && a.rotary.cos.rows() >= a.q.shape[0]), "rotary table too small");
}

LinearShape shape_of(const LinearWeight& weight) {
  if (const auto* w = std::get_if<Bf16Weight>(&weight)) return {w->weight.rows(), w->weight.cols()};
  if (const auto* w = std::get_if<Nvfp4Weight>(&weight)) return {w->codes.rows(), w->codes.cols() * 2};
  const auto& w = std::get<Fp8BlockWeight>(weight);
  return {w.codes.rows(), w.codes.cols()};
}

int64_t stored_bytes(const LinearWeight& weight) {
  if (const auto* w = std::get_if<Bf16Weight>(&weight)) return w->weight.bytes();
  if (const auto* w = std::get_if<Nvfp4Weight>(&weight)) return w->codes.bytes() + w->block_scales.bytes();
  const auto& w = std::get<Fp8BlockWeight>(weight);
  return w.codes.bytes() + w.scales.bytes();
}

void validate(const LinearWeight& weight) {
  const auto [n, k] = shape_of(weight);
  if (const auto* w = std::get_if<Bf16Weight>(&weight)) {
    NB_ASSERT(w->weight && w->weight.dtype == DType::bf16, "weight must be bf16");
  } else if (const auto* w = std::get_if<Nvfp4Weight>(&weight)) {
    NB_ASSERT(w->codes && w->codes.dtype == DType::u8 && w->block_scales && w->block_scales.dtype == DType::e4m3, "NVFP4 wants u8 codes and e4m3 scales");
    NB_ASSERT(k % kNvfp4Block == 0 && w->block_scales.rows() == n && w->block_scales.cols() == k / kNvfp4Block, "NVFP4 scales must be [N, K / 16]");
  } else {
    const auto& f = std::get<Fp8BlockWeight>(weight);
    NB_ASSERT(f.codes && f.codes.dtype == DType::e4m3 && f.scales && f.scales.dtype == DType::f32, "FP8 wants e4m3 codes and f32 scales");
    NB_ASSERT(f.scales.rows() == (n + kFp8Block - 1) / kFp8Block && f.scales.cols() == (k + kFp8Block - 1) / kFp8Block, "FP8 scales must be [N / 128, K / 128]");
  }
}
}  // namespace nibble
