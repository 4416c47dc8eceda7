#include "src/quant/gradient_rounding.h"

#include <ATen/ATen.h>

#include "kernels/quant/fake_quant.h"
#include "kernels/quant/range.h"
#include "kernels/quant/round_rows.h"
#include "src/quant/quantizer.h"
#include "src/quant/torch_view.h"

namespace qat {
namespace {

// A dynamic range for each row or column, then its values.
at::Tensor rounded_by_groups(const at::Tensor& g, const GradientRounding& rounding, Draw draw) {
  const kernels::Axis axis = draw == Draw::kInput ? kernels::Axis::kRow : kernels::Axis::kCol;
  const auto groups = kernels::groups_of(const_matrix(g), axis);
  at::Tensor lo = at::empty({groups}, g.options()), hi = at::empty({groups}, g.options());
  kernels::min_max(exec_for(g), const_matrix(g), axis, span_of(lo), span_of(hi));
  at::Tensor scales = at::empty_like(lo);
  kernels::symmetric_scales(exec_for(g), const_span(lo), const_span(hi), rounding.width, kernels::kGradientAmaxFloor,
                            span_of(scales));
  at::Tensor y = at::empty_like(g);
  kernels::fake_quant_symmetric(exec_for(g), const_matrix(g), axis, const_span(scales),
                                gradient_options(rounding, draw), matrix(y));
  return y;
}

}  // namespace

at::Tensor rounded_gradient(const at::Tensor& g, const GradientRounding& rounding, Draw draw) {
  if (rounding.width.is_full()) return g;
  if (draw == Draw::kInput && backward_on_codes(rounding)) {  // the same values by way of codes: fewer passes
    at::Tensor rows = at::empty(g.sizes(), g.options().dtype(at::kChar));
    at::Tensor scales = at::empty({g.size(0)}, g.options().dtype(at::kFloat));
    kernels::encode_rows(exec_for(g), const_float_matrix(g), gradient_options(rounding, draw), {codes(rows), {}},
                         span_of(scales));
    return decode(rows, scales, g.scalar_type());
  }
  return rounded_by_groups(g.to(at::kFloat), rounding, draw).to(g.scalar_type());
}

void round_gradient_(at::Tensor& g, const GradientRounding& rounding) {
  if (rounding.width.is_full()) return;
  if (backward_on_codes(rounding)) {
    kernels::round_rows(exec_for(g), matrix(g), gradient_options(rounding, Draw::kInput));
  } else {
    g.copy_(rounded_gradient(g, rounding, Draw::kInput));
  }
}

}  // namespace qat
