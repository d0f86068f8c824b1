#include <cmath>

#include "base/thread_pool.h"
#include "kernels/cpu/plain_math.h"
#include "kernels/embed.h"
#include "kernels/gelu_gate.h"
#include "kernels/softcap.h"

namespace nibble::cpu {
void embed(const EmbedArgs& args) {
  validate(args);
  const int64_t hidden = args.table.cols();
  for (size_t t = 0; t < args.ids.size(); ++t) {
    const bf16* row = args.table.as<bf16>() + args.ids[t] * hidden;
    float* out = args.out.as<float>() + static_cast<int64_t>(t) * hidden;
    for (int64_t i = 0; i < hidden; ++i) {
      const float x = to_float(row[i]) * args.scale;
      out[i] = args.round_to_bf16 ? to_float(to_bf16(x)) : x;
    }
  }
}

namespace {
float gelu_tanh(float z) {
  constexpr float kSqrt2OverPi = 0.7978845608028654f;
  return 0.5f * z * (1.0f + std::tanh(kSqrt2OverPi * (z + 0.044715f * z * z * z)));
}
}  // namespace

void gelu_gate(const GeluGateArgs& args, ThreadPool& threads) {
  validate(args);
  const int64_t inner = args.gate.cols();
  with_type(args.out.dtype, [&](auto type) {
    threads.run(args.gate.rows(), [&](int64_t row) {
      const float* gate = args.gate.as<float>() + row * inner;
      const float* up = args.up.as<float>() + row * inner;
      auto* out = args.out.as<decltype(type)>() + row * inner;
      for (int64_t i = 0; i < inner; ++i) store(gelu_tanh(gate[i]) * up[i], out + i);
    });
  });
}

void softcap(const Tensor& logits, float cap, ThreadPool& threads) {
  if (cap == 0.0f) return;
  constexpr int64_t kPart = 4096;
  const int64_t count = logits.count();
  float* x = logits.as<float>();
  threads.run((count + kPart - 1) / kPart, [&](int64_t part) {
    for (int64_t i = part * kPart; i < std::min(count, (part + 1) * kPart); ++i) x[i] = cap * std::tanh(x[i] / cap);
  });
}
}  // namespace nibble::cpu
