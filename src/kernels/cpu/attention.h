// The fast attention of the CPU backend: pages are walked in order with a running maximum, sixteen positions at a time.
#pragma once

#include "base/thread_pool.h"
#include "kernels/attention.h"

namespace nibble::cpu {
void attention(const AttentionArgs& args, ThreadPool& threads);
}
