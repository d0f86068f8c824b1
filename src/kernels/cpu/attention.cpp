// Fast attention. Work is cut into (row block, key/value head); each part walks the pages that its rows can see, by absolute position, and keeps a
// running maximum and sum per (row, head) as in online softmax. All query heads of a group use a page while it is in the first-level cache.
//
// Bound by: one row reads each visible page once (memory); prefill by the 2 * head_dim multiply-adds per visible key and head.
#include "kernels/cpu/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/cpu/plain_math.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define NB_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define NB_CLONES
#endif

namespace nibble::cpu {
namespace {
constexpr int64_t kRowBlock = 8;  // rows of a prefill chunk that share a part

// scores[s] = sum_i q[i] * k[i][s], sixteen positions in the lanes.
NB_CLONES void score_page(const float* q, const float* k, int64_t d, float* scores) {
  float sum[kPageTokens] = {};
  for (int64_t i = 0; i < d; ++i) {
    for (int s = 0; s < kPageTokens; ++s) sum[s] += q[i] * k[i * kPageTokens + s];
  }
  std::memcpy(scores, sum, sizeof sum);
}

// out[i] = out[i] * keep + sum_s p[s] * v[s][i]
NB_CLONES void add_page(const float* p, const float* v, int64_t d, int first, int last, float keep, float* out) {
  for (int64_t i = 0; i < d; ++i) out[i] *= keep;
  for (int s = first; s <= last; ++s) {
    for (int64_t i = 0; i < d; ++i) out[i] += p[s] * v[s * d + i];
  }
}

NB_CLONES void widen_bf16(const bf16* from, int64_t n, float* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = to_float(from[i]);
}

// A page of one head as f32: itself, or a copy in `scratch`.
const float* widen(const float* page, int64_t, float*) { return page; }
const float* widen(const bf16* page, int64_t n, float* scratch) {
  widen_bf16(page, n, scratch);
  return scratch;
}
const float* widen(const e4m3* page, int64_t n, float* scratch) {
  for (int64_t i = 0; i < n; ++i) scratch[i] = to_float(page[i]);
  return scratch;
}

struct Part {
  const PagedRows* rows;
  int64_t first, count;  // rows of `rows`
  int64_t kv_head;
};

struct Scratch {
  std::vector<float> k, v, sums, highest, totals;
};
thread_local Scratch t_scratch;

template <typename Cache, typename Out>
void attend(const AttentionArgs& args, const Part& part) {
  const int64_t heads = args.q.shape[1], kv_heads = args.k_pages.shape[1], d = args.q.shape[2], group = heads / kv_heads;
  const int64_t page_size = d * kPageTokens, states = part.count * group;
  Scratch& scratch = t_scratch;
  scratch.k.resize(static_cast<size_t>(page_size));
  scratch.v.resize(static_cast<size_t>(page_size));
  scratch.sums.assign(static_cast<size_t>(states * d), 0.0f);
  scratch.highest.assign(static_cast<size_t>(states), -INFINITY);
  scratch.totals.assign(static_cast<size_t>(states), 0.0f);

  const int64_t first_position = part.rows->first_position + part.first;
  const auto visible_from = [&](int64_t position) { return args.window > 0 ? std::max<int64_t>(0, position - args.window + 1) : int64_t{0}; };
  const auto last_visible = [&](int64_t r) {
    return args.last_visible.empty() ? first_position + r : int64_t{args.last_visible[static_cast<size_t>(part.rows->first_row + part.first + r)]};
  };
  int64_t highest_position = 0;
  for (int64_t r = 0; r < part.count; ++r) highest_position = std::max(highest_position, last_visible(r));
  for (int64_t page = visible_from(first_position) / kPageTokens; page <= highest_position / kPageTokens; ++page) {
    const int64_t stored = part.rows->pages[static_cast<size_t>(page)] * kv_heads + part.kv_head;
    const float* k = widen(args.k_pages.as<Cache>() + stored * page_size, page_size, scratch.k.data());
    const float* v = widen(args.v_pages.as<Cache>() + stored * page_size, page_size, scratch.v.data());
    for (int64_t r = 0; r < part.count; ++r) {
      const int64_t position = first_position + r, begin = page * kPageTokens;
      const int first = static_cast<int>(std::max<int64_t>(0, visible_from(position) - begin));
      const int last = static_cast<int>(std::min<int64_t>(kPageTokens - 1, last_visible(r) - begin));
      if (first > last) continue;
      for (int64_t h = 0; h < group; ++h) {
        const int64_t state = r * group + h;
        const float* q = args.q.as<float>() + ((part.rows->first_row + part.first + r) * heads + part.kv_head * group + h) * d;
        float p[kPageTokens];
        score_page(q, k, d, p);
        float highest = scratch.highest[static_cast<size_t>(state)];
        const float before = highest;
        for (int s = first; s <= last; ++s) highest = std::max(highest, p[s]);
        const float keep = std::exp(before - highest);  // 0 on the first page
        float total = scratch.totals[static_cast<size_t>(state)] * keep;
        for (int s = first; s <= last; ++s) {
          p[s] = std::exp(p[s] - highest);
          total += p[s];
        }
        scratch.highest[static_cast<size_t>(state)] = highest;
        scratch.totals[static_cast<size_t>(state)] = total;
        add_page(p, v, d, first, last, keep, scratch.sums.data() + state * d);
      }
    }
  }
  for (int64_t r = 0; r < part.count; ++r) {
    for (int64_t h = 0; h < group; ++h) {
      const int64_t state = r * group + h;
      Out* out = args.out.as<Out>() + ((part.rows->first_row + part.first + r) * heads + part.kv_head * group + h) * d;
      const float inverse = 1.0f / scratch.totals[static_cast<size_t>(state)];
      for (int64_t i = 0; i < d; ++i) store(scratch.sums[static_cast<size_t>(state * d + i)] * inverse, out + i);
    }
  }
}
}  // namespace

void attention(const AttentionArgs& args, ThreadPool& threads) {
  validate(args);
  static thread_local std::vector<Part> parts;
  parts.clear();
  for (const PagedRows& rows : args.sequences) {
    for (int64_t first = 0; first < rows.num_rows; first += kRowBlock) {
      for (int64_t head = 0; head < args.k_pages.shape[1]; ++head) parts.push_back({&rows, first, std::min<int64_t>(kRowBlock, rows.num_rows - first), head});
    }
  }
  const std::vector<Part>& work = parts;
  with_type(args.k_pages.dtype, [&](auto cache_type) {
    with_type(args.out.dtype, [&](auto out_type) {
      threads.run(static_cast<int64_t>(work.size()), [&](int64_t i) { attend<decltype(cache_type), decltype(out_type)>(args, work[static_cast<size_t>(i)]); });
    });
  });
}
}  // namespace nibble::cpu
