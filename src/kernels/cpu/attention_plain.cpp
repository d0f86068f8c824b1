#include <algorithm>
#include <cmath>
#include <vector>

#include "base/thread_pool.h"
#include "kernels/attention.h"
#include "kernels/cpu/heads.h"
#include "kernels/cpu/plain_math.h"

namespace nibble::cpu {
void rotary(const RotaryArgs& args) {
  const auto pairs = static_cast<int64_t>(args.frequencies.size());
  for (const PagedRows& rows : args.sequences) {
    for (int64_t i = 0; i < rows.num_rows; ++i) {
      const float position = static_cast<float>(rows.first_position + i);
      for (int64_t p = 0; p < pairs; ++p) {
        const float angle = position * args.frequencies[static_cast<size_t>(p)];
        args.table.cos.as<float>()[(rows.first_row + i) * pairs + p] = std::cos(angle);
        args.table.sin.as<float>()[(rows.first_row + i) * pairs + p] = std::sin(angle);
      }
    }
  }
}

void qkv_prepare(const QkvPrepareArgs& args, ThreadPool& threads) {
  validate(args);
  const int64_t heads = args.q.shape[1], kv_heads = args.k.shape[1], d = args.q.shape[2], pairs = args.rotary.cos.cols();
  const auto prepare_row = [&](int64_t row, int64_t page, int64_t slot, auto cache_type) {
    using Cache = decltype(cache_type);
    const float* cos = args.rotary.cos.as<float>() + row * pairs;
    const float* sin = args.rotary.sin.as<float>() + row * pairs;
    for (int64_t h = 0; h < heads; ++h) {
      float* q = args.q.as<float>() + (row * heads + h) * d;
      norm_head(q, args.q_norm.as<bf16>(), d, args.eps);
      rotate_head(q, cos, sin, pairs, d);
    }
    std::vector<float> head(static_cast<size_t>(d));
    for (int64_t h = 0; h < kv_heads; ++h) {
      const float* k = args.k.as<float>() + (row * kv_heads + h) * d;
      std::copy(k, k + d, head.data());
      norm_head(head.data(), args.k_norm.as<bf16>(), d, args.eps);
      rotate_head(head.data(), cos, sin, pairs, d);
      Cache* k_out = args.k_pages.as<Cache>() + (page * kv_heads + h) * d * kPageTokens + slot;
      for (int64_t i = 0; i < d; ++i) store(head[static_cast<size_t>(i)], k_out + i * kPageTokens);

      const float* v = args.v.as<float>() + (row * kv_heads + h) * d;
      std::copy(v, v + d, head.data());
      norm_head(head.data(), nullptr, d, args.eps);
      Cache* v_out = args.v_pages.as<Cache>() + ((page * kv_heads + h) * kPageTokens + slot) * d;
      for (int64_t i = 0; i < d; ++i) store(head[static_cast<size_t>(i)], v_out + i);
    }
  };
  with_type(args.k_pages.dtype, [&](auto cache_type) {
    for (const PagedRows& rows : args.sequences) {
      threads.run(rows.num_rows, [&](int64_t i) {
        const int64_t position = rows.first_position + i;
        const int32_t page = rows.pages[static_cast<size_t>(position / kPageTokens)];
        NB_ASSERT(page >= 0 && page < args.k_pages.shape[0], "a row's own page must be there");
        prepare_row(rows.first_row + i, page, position % kPageTokens, cache_type);
      });
    }
  });
}

void attention_plain(const AttentionArgs& args) {
  validate(args);
  const int64_t heads = args.q.shape[1], kv_heads = args.k_pages.shape[1], d = args.q.shape[2], group = heads / kv_heads;
  with_type(args.k_pages.dtype, [&](auto cache_type) {
    with_type(args.out.dtype, [&](auto out_type) {
      using Cache = decltype(cache_type);
      std::vector<float> scores, sum(static_cast<size_t>(d));
      for (const PagedRows& rows : args.sequences) {
        for (int64_t r = 0; r < rows.num_rows; ++r) {
          const int64_t position = rows.first_position + r;
          const int64_t first = args.window > 0 ? std::max<int64_t>(0, position - args.window + 1) : 0;
          const int64_t end = args.last_visible.empty() ? position : args.last_visible[static_cast<size_t>(rows.first_row + r)];
          for (int64_t h = 0; h < heads; ++h) {
            const float* q = args.q.as<float>() + ((rows.first_row + r) * heads + h) * d;
            const auto k_at = [&](int64_t s, int64_t i) {
              const int64_t page = rows.pages[static_cast<size_t>(s / kPageTokens)];
              return load(args.k_pages.as<Cache>() + ((page * kv_heads + h / group) * d + i) * kPageTokens + s % kPageTokens);
            };
            const auto v_at = [&](int64_t s, int64_t i) {
              const int64_t page = rows.pages[static_cast<size_t>(s / kPageTokens)];
              return load(args.v_pages.as<Cache>() + ((page * kv_heads + h / group) * kPageTokens + s % kPageTokens) * d + i);
            };
            scores.assign(static_cast<size_t>(end - first + 1), 0.0f);
            float highest = -INFINITY;
            for (int64_t s = first; s <= end; ++s) {
              float score = 0.0f;
              for (int64_t i = 0; i < d; ++i) score += q[i] * k_at(s, i);
              scores[static_cast<size_t>(s - first)] = score;
              highest = std::max(highest, score);
            }
            float total = 0.0f;
            std::fill(sum.begin(), sum.end(), 0.0f);
            for (int64_t s = first; s <= end; ++s) {
              const float p = std::exp(scores[static_cast<size_t>(s - first)] - highest);
              total += p;
              for (int64_t i = 0; i < d; ++i) sum[static_cast<size_t>(i)] += p * v_at(s, i);
            }
            auto* out = args.out.as<decltype(out_type)>() + ((rows.first_row + r) * heads + h) * d;
            for (int64_t i = 0; i < d; ++i) store(sum[static_cast<size_t>(i)] / total, out + i);
          }
        }
      }
    });
  });
}
}  // namespace nibble::cpu
