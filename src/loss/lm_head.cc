#include "src/loss/lm_head.h"

#include <ATen/ATen.h>

#include "kernels/gemm/code_matmul_adapter.h"
#include "kernels/quant/encode.h"
#include "src/quant/torch_view.h"

namespace qat {
namespace {

Coded encode(const at::Tensor& x, BitWidth width) {
  Coded out = empty_codes(x, {});
  kernels::encode_rows(exec_for(x), const_float_matrix(x), {.width = width}, {codes(out.codes), {}},
                       span_of(out.scales));
  return out;
}

// [V, ...] -> [Vp, ...], the new rows of `value`.
at::Tensor pad_rows(const at::Tensor& t, double value) {
  const std::int64_t multiple = t.is_cuda() ? kHeadRowMultiple : 1;
  const std::int64_t rows = (t.size(0) + multiple - 1) / multiple * multiple;
  if (rows == t.size(0)) return t;
  std::vector<std::int64_t> shape = t.sizes().vec();
  shape[0] = rows - t.size(0);
  return at::cat({t, at::full(shape, value, t.options())});
}

Coded padded_codes(const at::Tensor& t, BitWidth width) {
  const Coded coded = encode(t.detach(), width);
  return {.codes = pad_rows(coded.codes, 0.0), .codes_transposed = {}, .scales = pad_rows(coded.scales, 1.0)};
}

PreparedAdapter coded_adapter(const HeadParameters& parameters, BitWidth width, const Coded& weight,
                              at::ScalarType dtype, bool backward) {
  const std::int64_t rank = parameters.b.size(1);
  PreparedAdapter out;
  out.scaling = parameters.alpha / static_cast<double>(rank);
  out.a.codes = encode(parameters.a.detach(), width);
  if (backward) out.a.values = decode(out.a.codes.codes, out.a.codes.scales, dtype);
  const Coded b = padded_codes(parameters.b, width);
  const at::Tensor scales = b.scales * out.scaling;
  out.b = decode(b.codes, scales, dtype);
  const kernels::Exec exec = exec_for(out.b);
  const DType kind = dtype == at::kBFloat16 ? DType::kBFloat16 : DType::kFloat32;
  const bool one_product = exec.device == Device::kCuda &&
                           kernels::takes_adapter(exec, weight.codes.size(0), weight.codes.size(1), rank, kind);
  if (one_product) out.b_over_scales = decode(b.codes, scales / weight.scales, dtype);
  return out;
}

}  // namespace

PreparedLinear plain_head(const at::Tensor& w, at::ScalarType dtype) {
  PreparedLinear out;
  out.weight.values = pad_rows(w.detach().to(dtype), 0.0);
  return out;
}

PreparedLinear coded_head(const HeadParameters& parameters, BitWidth width, at::ScalarType dtype, bool backward) {
  PreparedLinear out;
  Coded& codes = out.weight.codes;
  codes = padded_codes(parameters.w, width);
  if (backward) out.weight.values = decode(codes.codes, codes.scales, dtype);
  if (parameters.a.defined()) out.adapter = coded_adapter(parameters, width, codes, dtype, backward);
  out.one = at::ones({1}, codes.scales.options());
  return out;
}

HeadPass head_forward(const LmHead& head, const at::Tensor& h) {
  LinearOperand x;
  if (head.linear->weight.is_coded()) {
    x.codes = encode(h, head.activation);
  } else {
    x.values = h;
  }
  HeadPass pass;
  pass.logits = linear_forward(*head.linear, x, h.scalar_type(), &pass.saved);
  return pass;
}

void head_backward(const LmHead& head, const HeadPass& pass, const at::Tensor& dz, const at::Tensor& dh,
                   const LinearGradients& sums) {
  LinearPlaces places{.at = sums, .add = true};
  places.at.input = dh;
  linear_backward(*head.linear, pass.saved, {.parts = {dz}}, /*rounding=*/{},
                  {.input = true, .weight = sums.weight.defined(), .bias = false, .adapter = sums.lora_a.defined()},
                  places);
}

}  // namespace qat
