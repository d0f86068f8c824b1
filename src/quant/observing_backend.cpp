#include "quant/observing_backend.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "quant/forget_pages.h"

namespace nibble {
// A linear that is prepared on first use.
struct ObservingBackend::Watched final : PreparedLinear {
  LinearWeight weight;
  ActivationQuant activations = ActivationQuant::none;
  std::string name;  // empty: not watched
  mutable std::unique_ptr<PreparedLinear> real;
  mutable bool kept = false;
};

namespace {
const void* data_of(const LinearWeight& weight) {
  if (const auto* plain = std::get_if<Bf16Weight>(&weight)) return plain->weight.data;
  return nullptr;  // calibration reads BF16 checkpoints
}
}  // namespace

std::unique_ptr<PreparedLinear> ObservingBackend::prepare_linear(const LinearWeight& weight, ActivationQuant activations) {
  auto linear = std::make_unique<Watched>();
  linear->shape = shape_of(weight);
  linear->kernel = "calibration";
  linear->weight = weight;
  linear->activations = activations;
  if (const auto named = options_.weight_names.find(data_of(weight)); named != options_.weight_names.end()) linear->name = named->second;
  return linear;
}

const PreparedLinear& ObservingBackend::use(const PreparedLinear& linear) {
  const auto& watched = static_cast<const Watched&>(linear);
  if (!watched.real) {
    watched.real = inner_.prepare_linear(watched.weight, watched.activations);
    // On a host that repacks, the file's pages are not needed beside the copy.
    const auto* plain = std::get_if<Bf16Weight>(&watched.weight);
    if (plain && options_.weights_are_mapped && (watched.real->bytes > 0 || !on_host())) forget_pages(plain->weight);
    watched.kept = kept_bytes_ + watched.real->bytes <= options_.keep_bytes;
    if (watched.kept) kept_bytes_ += watched.real->bytes;
  }
  return *watched.real;
}

void ObservingBackend::done_with(const PreparedLinear& linear) {
  const auto& watched = static_cast<const Watched&>(linear);
  if (!watched.kept) watched.real.reset();
}

void ObservingBackend::see(std::initializer_list<const PreparedLinear*> linears, const Tensor& x) {
  const auto rows = static_cast<int64_t>(is_first_.size());
  largest_.resize(static_cast<size_t>(rows));
  inner_.row_amax(x.slice_rows(0, rows), largest_.data());  // a backend may have added rows
  Amax here;
  for (size_t row = 0; row < largest_.size(); ++row) {
    float& most = is_first_[row] ? here.first : here.rest;
    most = std::max(most, largest_[row]);
    if (!std::isfinite(largest_[row])) most = largest_[row];
  }
  for (const PreparedLinear* linear : linears) {
    const std::string* name = linear ? &static_cast<const Watched*>(linear)->name : nullptr;
    if (!name || name->empty()) continue;
    if (!std::isfinite(here.first + here.rest)) raise(ErrorCode::corrupt, "calibration: the input of {} is not finite", *name);
    Amax& seen = amax[*name];
    seen.first = std::max(seen.first, here.first);
    seen.rest = std::max(seen.rest, here.rest);
  }
}

void ObservingBackend::see_pages(const std::string& name, const Tensor& pages) {
  largest_.resize(static_cast<size_t>(pages.shape[0]));
  inner_.row_amax(pages, largest_.data());
  float& most = amax[name].rest;
  for (const float page : largest_) {
    if (!std::isfinite(page)) raise(ErrorCode::corrupt, "calibration: {} is not finite", name);
    most = std::max(most, page);
  }
}

void ObservingBackend::run_step(const StepPlan& plan, const std::function<void(int64_t, int64_t)>& body) {
  is_first_.assign(plan.ids.size(), false);
  for (const PagedRows& s : plan.full_rows) is_first_[static_cast<size_t>(s.first_row)] = s.first_position == 0;
  inner_.run_step(plan, body);
}

Tensor ObservingBackend::allocate(DType dtype, const Shape& shape, const char* what) {
  if (!on_host() || shape.rank != 4) return inner_.allocate(dtype, shape, what);
  // Pages, of K and of V by turns.
  const std::vector<int64_t> key{shape[0], shape[1], shape[2], shape[3], num_pools_++ % 2};
  Tensor& pool = pools_[key];
  if (!pool) pool = inner_.allocate(dtype, shape, what);
  return pool;
}

void ObservingBackend::linear(const PreparedLinear& weight, const Tensor& x, const Tensor& out) {
  see({&weight}, x);
  inner_.linear(use(weight), x, out);
  done_with(weight);
}

void ObservingBackend::linear_group(std::span<const LinearJob> jobs, const Tensor& x) {
  const auto weight = [&](size_t i) { return i < jobs.size() ? jobs[i].weight : nullptr; };
  see({weight(0), weight(1), weight(2)}, x);
  std::vector<LinearJob> real;
  for (const LinearJob& job : jobs) real.push_back({&use(*job.weight), job.out});
  inner_.linear_group(real, x);
  for (const LinearJob& job : jobs) done_with(*job.weight);
}

void ObservingBackend::gated_linear(const PreparedLinear& gate, const PreparedLinear& up, const Tensor& x, const Tensor& gate_out, const Tensor& up_out, const Tensor& out) {
  see({&gate, &up}, x);
  inner_.gated_linear(use(gate), use(up), x, gate_out, up_out, out);
  done_with(gate);
  done_with(up);
}

void ObservingBackend::qkv_prepare(const QkvPrepareArgs& args) {
  // A shared pool holds another layer's leftovers.
  if (on_host()) {
    for (const Tensor& pages : {args.k_pages, args.v_pages}) std::memset(pages.data, 0, static_cast<size_t>(pages.bytes()));
  }
  inner_.qkv_prepare(args);
  const auto named = options_.k_norm_names.find(args.k_norm.data);
  if (named == options_.k_norm_names.end()) return;
  see_pages(named->second + ".k", args.k_pages);
  see_pages(named->second + ".v", args.v_pages);
}
}  // namespace nibble
