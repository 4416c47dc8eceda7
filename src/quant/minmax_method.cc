#include "src/quant/minmax_method.h"

#include <ATen/ATen.h>

#include "kernels/quant/fake_quant.h"
#include "src/quant/torch_view.h"

namespace qat {
namespace {

using kernels::Axis;

class MinMaxMethod : public QuantMethod {
 public:
  CalibratedRange measure(const at::Tensor& x, Axis axis, BitWidth /*width*/) const override {
    return min_max_range(x, axis);
  }
};

class SymmetricMethod final : public MinMaxMethod {
 public:
  bool factors_out() const override { return true; }
  CodeStorage storage() const override { return {}; }

  at::Tensor scales(const CalibratedRange& range, BitWidth width) const override {
    at::Tensor scales = at::empty_like(range.lo);
    kernels::symmetric_scales(exec_for(scales), const_span(range.lo), const_span(range.hi), width,
                              kernels::kWeightAmaxFloor, span_of(scales));
    return scales;
  }

  at::Tensor fake_quant(const at::Tensor& x, Axis axis, BitWidth width, const CalibratedRange& range) const override {
    at::Tensor y = at::empty_like(x);
    kernels::fake_quant_symmetric(exec_for(x), const_matrix(x), axis, const_span(scales(range, width)),
                                  {.width = width}, matrix(y));
    return y;
  }

  at::Tensor step_sizes(const CalibratedRange& range, BitWidth width) const override { return scales(range, width); }

  at::Tensor count_beyond(const at::Tensor& x, const CalibratedRange& range, BitWidth /*width*/) const override {
    return (x.abs() > at::maximum(range.lo.abs(), range.hi.abs())).sum();
  }
};

class AffineMethod final : public MinMaxMethod {
 public:
  bool factors_out() const override { return false; }
  CodeStorage storage() const override { return {.numbers_per_group = 2}; }

  at::Tensor fake_quant(const at::Tensor& x, Axis axis, BitWidth width, const CalibratedRange& range) const override {
    at::Tensor scales = at::empty_like(range.lo), zeros = at::empty_like(range.lo), y = at::empty_like(x);
    const kernels::Exec exec = exec_for(x);
    kernels::affine_scales(exec, const_span(range.lo), const_span(range.hi), width, span_of(scales), span_of(zeros));
    kernels::fake_quant_affine(exec, const_matrix(x), axis, const_span(scales), const_span(zeros), width, matrix(y));
    return y;
  }

  at::Tensor count_beyond(const at::Tensor& x, const CalibratedRange& range, BitWidth /*width*/) const override {
    return ((x < range.lo.clamp_max(0.0)) | (x > range.hi.clamp_min(0.0))).sum();
  }
};

}  // namespace

CalibratedRange min_max_range(const at::Tensor& x, Axis axis) {
  CalibratedRange range{.lo = empty_groups(x, axis), .hi = empty_groups(x, axis), .mean = {}, .batches = 1};
  kernels::min_max(exec_for(x), const_matrix(x), axis, span_of(range.lo), span_of(range.hi));
  return range;
}

const QuantMethod& symmetric_method() {
  static const SymmetricMethod method;
  return method;
}

const QuantMethod& affine_method() {
  static const AffineMethod method;
  return method;
}

}  // namespace qat
