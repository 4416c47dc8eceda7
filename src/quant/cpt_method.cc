#include "src/quant/cpt_method.h"

#include <ATen/ATen.h>

#include "src/quant/minmax_method.h"

namespace qat {
namespace {

using kernels::Axis;

constexpr double kStepFloor = 1e-8;

class CptMethod final : public QuantMethod {
 public:
  bool factors_out() const override { return false; }
  CodeStorage storage() const override { return {.numbers_per_group = 2}; }

  CalibratedRange measure(const at::Tensor& x, Axis axis, BitWidth /*width*/) const override {
    return min_max_range(x, axis);
  }

  at::Tensor step_sizes(const CalibratedRange& range, BitWidth width) const override {
    return ((range.hi - range.lo) / width.level_max()).clamp_min(kStepFloor);
  }

  at::Tensor fake_quant(const at::Tensor& x, Axis axis, BitWidth width, const CalibratedRange& range) const override {
    const at::Tensor s = over_groups(step_sizes(range, width), x, axis), lo = over_groups(range.lo, x, axis);
    return ((x - lo) / s).clamp_(0, width.level_max()).round_().mul_(s).add_(lo);
  }

  at::Tensor count_beyond(const at::Tensor& x, const CalibratedRange& range, BitWidth /*width*/) const override {
    return ((x < range.lo) | (x > range.hi)).sum();
  }
};

}  // namespace

const QuantMethod& cpt_method() {
  static const CptMethod method;
  return method;
}

}  // namespace qat
