#include "src/quant/lsq_method.h"

#include <ATen/ATen.h>

#include <cmath>

#include "kernels/common/error.h"
#include "src/quant/minmax_method.h"

namespace qat {
namespace {

using kernels::Axis;

constexpr double kSmallestStep = 1e-8;

class LsqMethod final : public QuantMethod {
 public:
  bool factors_out() const override { return false; }
  CodeStorage storage() const override { return {}; }
  bool wants_mean(BitWidth /*width*/) const override { return true; }
  GradientRule gradient_rule() const override { return GradientRule::kTrained; }

  std::vector<TrainedMember> trained_members(std::int64_t /*rows*/, std::int64_t /*cols*/) const override {
    return {{.name = "step", .member = &CalibratedRange::mean, .shape = {1}}};
  }

  // What the step begins with.
  CalibratedRange measure(const at::Tensor& x, Axis axis, BitWidth width) const override {
    QAT_CHECK(axis == Axis::kTensor, "a learned step is that of a whole tensor");
    CalibratedRange range = min_max_range(x, axis);
    range.mean = (x.abs().mean() * (2.0 / std::sqrt(width.q_max()))).clamp_min_(kSmallestStep).view({1});
    return range;
  }

  at::Tensor step_sizes(const CalibratedRange& range, BitWidth /*width*/) const override {
    return range.mean.clamp_min(kSmallestStep);
  }

  at::Tensor fake_quant(const at::Tensor& x, Axis /*axis*/, BitWidth width,
                        const CalibratedRange& range) const override {
    const at::Tensor s = step_sizes(range, width);
    return (x / s).clamp_(-width.q_max() - 1, width.q_max()).round_().mul_(s);
  }

  at::Tensor count_beyond(const at::Tensor& x, const CalibratedRange& range, BitWidth width) const override {
    const at::Tensor code = x / step_sizes(range, width);
    return ((code < -width.q_max() - 1) | (code > width.q_max())).sum();
  }

  QuantGradients backward(const at::Tensor& dy, const at::Tensor& x, Axis /*axis*/, BitWidth width,
                          const CalibratedRange& range, std::int64_t sharing) const override {
    const double least = -width.q_max() - 1, most = width.q_max();
    const at::Tensor code = x / step_sizes(range, width);
    const at::Tensor inside = (code > least) & (code < most);
    const at::Tensor of_step = at::where(inside, code.round() - code, code.clamp(least, most));
    const double scale = 1.0 / std::sqrt(static_cast<double>(sharing) * most);
    const at::Tensor sum = (dy.to(at::kFloat) * of_step).sum(at::kDouble);
    return {.x = dy * inside, .trained = {(sum * scale).to(at::kFloat).view({1})}};
  }
};

}  // namespace

const QuantMethod& lsq_method() {
  static const LsqMethod method;
  return method;
}

}  // namespace qat
