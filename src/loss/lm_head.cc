#include "src/loss/lm_head.h"

#include <ATen/ATen.h>

#include "kernels/gemm/code_matmul_adapter.h"
#include "kernels/quant/encode.h"
#include "src/quant/autograd_ops.h"
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

void multiply(const Coded& x, const Coded& w, const at::Tensor& y) {
  kernels::code_matmul(exec_for(y), const_codes(x.codes), const_codes(w.codes),
                       {.row_scales = const_span(x.scales), .col_scales = const_span(w.scales)}, float_matrix(y));
}

// Codes times codes and, in the same product or after it, the adapter's term.
HeadPass forward_codes(const HeadCodes& head, const at::Tensor& h) {
  HeadPass pass{.logits = at::empty({h.size(0), head.weight.codes.size(0)}, h.options()),
                .h = {},
                .codes = encode(h, head.activation),
                .low = {}};
  if (!head.adapter) {
    multiply(pass.codes, head.weight, pass.logits);
    return pass;
  }
  const HeadAdapter& adapter = *head.adapter;
  pass.low = at::empty({h.size(0), adapter.a.codes.size(0)}, h.options());
  if (!adapter.b_over_scales.defined()) {
    multiply(pass.codes, head.weight, pass.logits);
    multiply(pass.codes, adapter.a, pass.low);
    pass.logits.addmm_(pass.low, adapter.b.t());
    return pass;
  }
  const at::Tensor one = at::ones({1}, head.weight.scales.options());
  multiply({.codes = pass.codes.codes, .codes_transposed = {}, .scales = one}, adapter.a, pass.low);
  kernels::code_matmul_adapter(
      exec_for(h), const_codes(pass.codes.codes), const_codes(head.weight.codes),
      {.row_scales = const_span(pass.codes.scales), .col_scales = const_span(head.weight.scales)},
      {const_float_matrix(pass.low), const_float_matrix(adapter.b_over_scales)}, float_matrix(pass.logits));
  return pass;
}

// sum += scale * a^T b in fp32, whatever the operands' dtype.
void add_rows(at::Tensor sum, const at::Tensor& a, const at::Tensor& b, double scale) {
  if (a.scalar_type() == at::kFloat) {
    sum.addmm_(a.t(), b, /*beta=*/1, scale);
  } else {
    at::addmm_out(sum, sum, a.t(), b, at::kFloat, /*beta=*/1, scale);
  }
}

// The same for as many columns of a as sum has rows. Those beyond the last multiple of eight go apart: an odd number
// would make the whole product take a kernel that is half as fast.
void add_product(const at::Tensor& sum, const at::Tensor& a, const at::Tensor& b, double scale = 1.0) {
  const std::int64_t rows = sum.size(0), even = a.is_cuda() ? rows / 8 * 8 : rows;
  if (even > 0) add_rows(sum.narrow(0, 0, even), a.narrow(1, 0, even), b, scale);
  if (even < rows) add_rows(sum.narrow(0, even, rows - even), a.narrow(1, even, rows - even), b, scale);
}

void adapter_backward(const HeadAdapter& adapter, const HeadPass& pass, const at::Tensor& x, const at::Tensor& dz,
                      at::Tensor& dh, HeadGradients& sums) {
  const at::Tensor dl = at::mm(dz, adapter.b);  // [M, r]
  if (dh.defined()) dh.addmm_(dl, adapter.a_values);
  if (sums.lora_a.defined()) add_product(sums.lora_a, dl, x);
  if (!sums.lora_b.defined()) return;
  const at::Tensor low = adapter.b_over_scales.defined()
                             ? (pass.low * pass.codes.scales.unsqueeze(1)).to(pass.low.scalar_type())
                             : pass.low;
  add_product(sums.lora_b, dz, low, adapter.scaling);
}

}  // namespace

at::Tensor padded_head(const at::Tensor& w, at::ScalarType dtype) { return pad_rows(w.detach().to(dtype), 0.0); }

Coded padded_head_codes(const at::Tensor& w, BitWidth width) {
  const Coded coded = encode(w.detach(), width);
  return {.codes = pad_rows(coded.codes, 0.0), .codes_transposed = {}, .scales = pad_rows(coded.scales, 1.0)};
}

HeadAdapter head_adapter(const at::Tensor& a, const at::Tensor& b, BitWidth width, double scaling, const Coded& weight,
                         at::ScalarType dtype) {
  HeadAdapter out{.a = encode(a.detach(), width), .a_values = {}, .b = {}, .b_over_scales = {}, .scaling = scaling};
  out.a_values = decode(out.a.codes, out.a.scales, dtype);
  Coded coded = encode(b.detach(), width);
  coded.codes = pad_rows(coded.codes, 0.0);
  coded.scales = pad_rows(coded.scales, 1.0) * scaling;
  out.b = decode(coded.codes, coded.scales, dtype);
  const kernels::Exec exec = exec_for(out.b);
  const DType kind = dtype == at::kBFloat16 ? DType::kBFloat16 : DType::kFloat32;
  const bool one_product = exec.device == Device::kCuda &&
                           kernels::takes_adapter(exec, weight.codes.size(0), weight.codes.size(1), b.size(1), kind);
  if (one_product) out.b_over_scales = decode(coded.codes, coded.scales / weight.scales, dtype);
  return out;
}

HeadPass head_forward(const LmHead& head, const at::Tensor& h) {
  if (head.codes) return forward_codes(*head.codes, h);
  return {.logits = at::mm(h, head.values.t()), .h = h, .codes = {}, .low = {}};
}

void head_backward(const LmHead& head, const HeadPass& pass, const at::Tensor& dz, at::Tensor dh, HeadGradients& sums) {
  if (dh.defined()) at::mm_out(dh, dz, head.values);
  const at::Tensor x = head.codes ? decode(pass.codes.codes, pass.codes.scales, dz.scalar_type()) : pass.h;
  if (sums.weight.defined()) add_product(sums.weight, dz, x);
  if (head.codes && head.codes->adapter) adapter_backward(*head.codes->adapter, pass, x, dz, dh, sums);
}

}  // namespace qat
