#include "src/quant/llm_qat_method.h"

#include <ATen/ATen.h>

#include "src/quant/minmax_method.h"

namespace qat {
namespace {

using kernels::Axis;

constexpr double kScaleEps = 1e-6;  // symmetric
constexpr double kRangeEps = 1e-8;  // asymmetric

at::Tensor magnitude(const CalibratedRange& range) { return at::maximum(range.lo.abs(), range.hi.abs()); }

at::Tensor mean_magnitude(const at::Tensor& x, Axis axis) {
  const at::Tensor rows = x.reshape({-1, x.size(-1)}).abs();
  switch (axis) {
    case Axis::kRow:
      return rows.mean(1);
    case Axis::kCol:
      return rows.mean(0);
    case Axis::kTensor:
      break;
  }
  return rows.mean().view({1});
}

class SymmetricLlmQat final : public QuantMethod {
 public:
  bool factors_out() const override { return false; }
  CodeStorage storage() const override { return {}; }
  bool wants_mean(BitWidth width) const override { return width.bits() <= 2; }
  // A range of other data may cut elements off; at 1 and 2 bits the gradient passes as it is.
  GradientRule gradient_rule() const override { return GradientRule::kMasked; }

  CalibratedRange measure(const at::Tensor& x, Axis axis, BitWidth width) const override {
    CalibratedRange range = min_max_range(x, axis);
    if (wants_mean(width)) range.mean = mean_magnitude(x, axis);
    return range;
  }

  at::Tensor step_sizes(const CalibratedRange& range, BitWidth width) const override {
    if (width.bits() == 1) return 2.0 * range.mean;
    if (width.bits() == 2) return range.mean;
    return 1.0 / (code_per_value(range, width) + kScaleEps);
  }

  at::Tensor fake_quant(const at::Tensor& x, Axis axis, BitWidth width, const CalibratedRange& range) const override {
    if (width.bits() == 1) return x.sign().mul_(over_groups(range.mean, x, axis));
    if (width.bits() == 2) return four_values(x, over_groups(2.0 * range.mean, x, axis));
    const at::Tensor s = over_groups(code_per_value(range, width), x, axis);
    return (x * s).round_().clamp_(-width.q_max(), width.q_max()).div_(s + kScaleEps);
  }

  at::Tensor count_beyond(const at::Tensor& x, const CalibratedRange& range, BitWidth /*width*/) const override {
    return (x.abs() > magnitude(range)).sum();
  }

  QuantGradients backward(const at::Tensor& dy, const at::Tensor& x, Axis axis, BitWidth width,
                          const CalibratedRange& range, std::int64_t /*sharing*/) const override {
    if (width.bits() <= 2) return {.x = dy, .trained = {}};
    return {.x = dy * (x.abs() <= over_groups(magnitude(range), x, axis)), .trained = {}};
  }

 private:
  static at::Tensor code_per_value(const CalibratedRange& range, BitWidth width) {
    return width.q_max() / (magnitude(range) + kScaleEps);
  }
  // c (-3/4, -1/4, 1/4, 3/4); a group of zeros stays zeros.
  static at::Tensor four_values(const at::Tensor& x, const at::Tensor& c) {
    constexpr double kAlmostOne = 0.99, kTiny = 1e-30;
    const at::Tensor inside = (x / c.clamp_min(kTiny)).clamp_(-kAlmostOne, kAlmostOne);
    return inside.mul_(2.0).sub_(0.5).round_().add_(0.5).div_(2.0).mul_(c);
  }
};

class AffineLlmQat final : public QuantMethod {
 public:
  bool factors_out() const override { return false; }
  CodeStorage storage() const override { return {.numbers_per_group = 2}; }
  GradientRule gradient_rule() const override { return GradientRule::kMasked; }

  CalibratedRange measure(const at::Tensor& x, Axis axis, BitWidth /*width*/) const override {
    return min_max_range(x, axis);
  }

  at::Tensor fake_quant(const at::Tensor& x, Axis axis, BitWidth width, const CalibratedRange& range) const override {
    const at::Tensor lo = over_groups(range.lo, x, axis);
    const at::Tensor extent = over_groups(range.hi - range.lo + kRangeEps, x, axis);
    const double levels = width.level_max();
    return ((x - lo) / extent).mul_(levels).round_().clamp_(0, levels).div_(levels).mul_(extent).add_(lo);
  }

  at::Tensor count_beyond(const at::Tensor& x, const CalibratedRange& range, BitWidth /*width*/) const override {
    return ((x < range.lo) | (x > range.hi)).sum();
  }

  QuantGradients backward(const at::Tensor& dy, const at::Tensor& x, Axis axis, BitWidth /*width*/,
                          const CalibratedRange& range, std::int64_t /*sharing*/) const override {
    const at::Tensor inside = (x >= over_groups(range.lo, x, axis)) & (x <= over_groups(range.hi, x, axis));
    return {.x = dy * inside, .trained = {}};
  }
};

}  // namespace

const QuantMethod& llm_qat_method(bool symmetric) {
  static const SymmetricLlmQat even;
  static const AffineLlmQat affine;
  if (symmetric) return even;
  return affine;
}

}  // namespace qat
