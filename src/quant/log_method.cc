#include "src/quant/log_method.h"

#include <ATen/ATen.h>

#include "kernels/quant/fake_quant.h"
#include "src/quant/torch_view.h"

namespace qat {
namespace {

using kernels::Axis;

class LogMethod final : public QuantMethod {
 public:
  explicit LogMethod(LogCodebook codebook) : codebook_(codebook) {}

  bool factors_out() const override { return false; }
  bool clamps_gradient() const override { return true; }
  CodeStorage storage() const override {
    return {.extra_bits = codebook_ == LogCodebook::kSeed ? 1 : 0, .numbers_per_group = 2};
  }

  // A 2-bit packed code has a single magnitude, so its exponent is the mean and not the range.
  bool wants_mean(BitWidth width) const override { return codebook_ == LogCodebook::kPacked && width.q_max() == 1; }

  CalibratedRange measure(const at::Tensor& x, Axis axis, BitWidth width) const override {
    const kernels::Exec exec = exec_for(x);
    CalibratedRange range{.lo = empty_groups(x, axis), .hi = empty_groups(x, axis), .mean = {}, .batches = 1};
    const bool masked = codebook_ == LogCodebook::kPacked;
    kernels::log_range(exec, const_matrix(x), axis, kernels::kLogEps, masked, span_of(range.lo), span_of(range.hi));
    if (wants_mean(width)) {
      range.mean = empty_groups(x, axis);
      kernels::log_mean(exec, const_matrix(x), axis, kernels::kLogEps, span_of(range.mean));
    }
    return range;
  }

  at::Tensor fake_quant(const at::Tensor& x, Axis axis, BitWidth width, const CalibratedRange& range) const override {
    const bool one_magnitude = wants_mean(width);
    const at::Tensor log_min = one_magnitude ? range.mean : range.lo;
    const at::Tensor log_range = one_magnitude ? at::zeros_like(range.lo) : range.hi - range.lo;
    at::Tensor y = at::empty_like(x);
    kernels::fake_quant_log(exec_for(x), const_matrix(x), axis, const_span(log_min), const_span(log_range), width,
                            codebook_, matrix(y));
    return y;
  }

  at::Tensor count_beyond(const at::Tensor& x, const CalibratedRange& range, BitWidth /*width*/) const override {
    const at::Tensor magnitude = x.abs(), exponent = at::log2(magnitude);
    return ((magnitude > kernels::kLogEps) & ((exponent < range.lo) | (exponent > range.hi))).sum();
  }

 private:
  LogCodebook codebook_;
};

}  // namespace

const QuantMethod& log_method(LogCodebook codebook) {
  static const LogMethod packed(LogCodebook::kPacked), seed(LogCodebook::kSeed);
  return codebook == LogCodebook::kPacked ? packed : seed;
}

}  // namespace qat
