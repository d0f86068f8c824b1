#include "kernels/draft.h"

#include <algorithm>

#include "base/thread_pool.h"
#include "kernels/cpu/heads.h"
#include "kernels/cpu/plain_math.h"

namespace nibble::cpu {
void draft_input(const DraftInputArgs& args) {
  validate(args);
  const int64_t hidden = args.table.cols(), rows = args.out.rows();
  with_type(args.hidden.dtype, [&](auto in_type) {
    with_type(args.out.dtype, [&](auto out_type) {
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t id = args.ids.empty() ? args.chosen.as<int32_t>()[r] : args.ids[static_cast<size_t>(r)];
        NB_ASSERT(id >= 0 && id < args.table.rows(), "token id outside the vocabulary");
        const bf16* embedding = args.table.as<bf16>() + id * hidden;
        const int64_t from = args.hidden_rows.empty() ? r : args.hidden_rows[static_cast<size_t>(r)];
        const auto* state = args.hidden.as<decltype(in_type)>() + from * hidden;
        auto* out = args.out.as<decltype(out_type)>() + r * 2 * hidden;
        for (int64_t i = 0; i < hidden; ++i) {
          const float x = to_float(embedding[i]) * args.scale;
          store(args.round_to_bf16 ? to_float(to_bf16(x)) : x, out + i);
          store(load(state + i), out + hidden + i);
        }
      }
    });
  });
}

void query_prepare(const QueryPrepareArgs& args, ThreadPool& threads) {
  validate(args);
  const int64_t heads = args.q.shape[1], d = args.q.shape[2], pairs = args.rotary.cos ? args.rotary.cos.cols() : 0;
  threads.run(args.q.shape[0], [&](int64_t row) {
    for (int64_t h = 0; h < heads; ++h) {
      float* q = args.q.as<float>() + (row * heads + h) * d;
      norm_head(q, args.q_norm.as<bf16>(), d, args.eps);
      if (pairs > 0) rotate_head(q, args.rotary.cos.as<float>() + row * pairs, args.rotary.sin.as<float>() + row * pairs, pairs, d);
    }
  });
}

void argmax(const Tensor& logits, const Tensor& ids, ThreadPool& threads) {
  const int64_t vocab = logits.cols();
  threads.run(logits.rows(), [&](int64_t row) {
    const float* x = logits.as<float>() + row * vocab;
    ids.as<int32_t>()[row] = static_cast<int32_t>(std::max_element(x, x + vocab) - x);
  });
}
}  // namespace nibble::cpu
