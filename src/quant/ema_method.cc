#include "src/quant/ema_method.h"

#include <ATen/ATen.h>

#include "src/quant/minmax_method.h"

namespace qat {
namespace {

using kernels::Axis;

constexpr double kRangeFloor = 1e-7;

at::Tensor magnitude(const CalibratedRange& range) {
  return at::maximum(range.lo.abs(), range.hi.abs()).clamp_min(kRangeFloor);
}

class EmaMethod final : public QuantMethod {
 public:
  bool factors_out() const override { return false; }
  CodeStorage storage() const override { return {}; }

  CalibratedRange measure(const at::Tensor& x, Axis axis, BitWidth /*width*/) const override {
    return min_max_range(x, axis);
  }

  // Of this width's own number of codes, whatever width the range was observed at.
  at::Tensor step_sizes(const CalibratedRange& range, BitWidth width) const override {
    return magnitude(range) * 2.0 / width.level_max();
  }

  at::Tensor fake_quant(const at::Tensor& x, Axis axis, BitWidth width, const CalibratedRange& range) const override {
    const at::Tensor s = over_groups(step_sizes(range, width), x, axis);
    return (x / s).round_().clamp_(-width.q_max() - 1, width.q_max()).mul_(s);
  }

  at::Tensor count_beyond(const at::Tensor& x, const CalibratedRange& range, BitWidth /*width*/) const override {
    return (x.abs() > magnitude(range)).sum();
  }
};

}  // namespace

const QuantMethod& ema_method() {
  static const EmaMethod method;
  return method;
}

}  // namespace qat
