#include "src/train/running_ranges.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <set>
#include <vector>

#include "kernels/common/error.h"
#include "src/quant/torch_view.h"

namespace qat {
namespace {

void widen(CalibratedRange& range, const CalibratedRange& more) {
  range.lo = at::minimum(range.lo, more.lo);
  range.hi = at::maximum(range.hi, more.hi);
}

}  // namespace

bool RunningRanges::any() const {
  return has_ranges_from(quant_.activation, RangeSource::kRunning) ||
         has_ranges_from(quant_.weight, RangeSource::kRunning);
}

void RunningRanges::observe(std::int64_t layer, const RangeWidths& widths, const CalibratedRange& range) {
  const std::lock_guard lock(mutex_);
  const auto [found, added] = seen_.try_emplace({layer, widths}, range);
  if (!added) widen(found->second, range);
}

void RunningRanges::begin_update() {
  const std::lock_guard lock(mutex_);
  seen_.clear();
}

void RunningRanges::count_update() {
  const std::lock_guard lock(mutex_);
  for (const auto& [key, range] : seen_) {
    const auto [found, added] = counted_.try_emplace(key, range);
    if (!added) widen(found->second, range);
  }
  seen_.clear();
}

void RunningRanges::begin_step() {
  begin_update();
  counted_.clear();
}

void RunningRanges::end_step(std::span<const PrecisionMap> maps) {
  const at::NoGradGuard no_grad;
  if (has_ranges_from(quant_.activation, RangeSource::kRunning)) move_activations();
  if (has_ranges_from(quant_.weight, RangeSource::kRunning)) move_weights(maps);
}

bool RunningRanges::mix(const CalibratedRange& in_force, const CalibratedRange& seen, CalibratedRange& mixed) const {
  if (!(at::isfinite(seen.lo).all() & at::isfinite(seen.hi).all()).item<bool>()) return false;
  const double kept = quant_.running_momentum;
  mixed = in_force;
  mixed.lo = in_force.lo * kept + seen.lo * (1.0 - kept);
  mixed.hi = in_force.hi * kept + seen.hi * (1.0 - kept);
  ++mixed.batches;
  return true;
}

void RunningRanges::move_activations() {
  // Every rank has made the same passes, and so has the same keys: two messages for all.
  std::vector<at::Tensor> lows, highs;
  for (const auto& [key, range] : counted_) lows.push_back(range.lo), highs.push_back(range.hi);
  if (lows.empty()) return;
  at::Tensor low = at::cat(lows).to(at::kCPU), high = at::cat(highs).to(at::kCPU);
  comm_.all_reduce(view(span_of(low)), dist::ReduceOp::kMin);
  comm_.all_reduce(view(span_of(high)), dist::ReduceOp::kMax);
  std::int64_t begin = 0;
  for (const auto& [key, range] : counted_) {
    const std::int64_t groups = range.lo.numel();
    const CalibratedRange agreed{.lo = low.narrow(0, begin, groups).to(range.lo.device()),
                                 .hi = high.narrow(0, begin, groups).to(range.lo.device()),
                                 .mean = {}};
    begin += groups;
    Quantizer& quantizer = model_.linear(key.layer).activation_quantizer();
    CalibratedRange mixed;
    if (mix(quantizer.required(key.widths), agreed, mixed)) {
      quantizer.put_in_force(key.widths, std::move(mixed));
    } else {
      log_.warning(fmt::format("inputs of {} were not finite: its running range at W{} A{} stays as it was",
                               quantizer.layer(), key.widths.weight, key.widths.activation));
    }
  }
  counted_.clear();
}

void RunningRanges::move_weights(std::span<const PrecisionMap> maps) {
  std::set<Key> moved;
  for (const PrecisionMap& map : maps) {
    for (QuantLinear& linear : model_.linears()) {
      const LayerPrecision& precision = map.at(linear.spec().index);
      const RangeWidths widths = weight_widths(precision);
      if (precision.weight.is_full() || !moved.insert({linear.spec().index, widths}).second) continue;
      Quantizer& quantizer = linear.weight_quantizer();
      if (quantizer.source(precision.weight) != RangeSource::kRunning) continue;
      const at::Tensor weight = model_.parameters().tensor(linear.spec().weight).detach();
      CalibratedRange mixed;
      if (mix(quantizer.required(widths), quantizer.measure(weight, precision.weight), mixed))
        quantizer.put_in_force(widths, std::move(mixed));
    }
  }
}

}  // namespace qat
