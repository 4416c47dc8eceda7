// Backward on int8 codes of the output gradient.
#include <ATen/ATen.h>

#include "kernels/common/error.h"
#include "kernels/gemm/adapter_backward.h"
#include "kernels/gemm/code_matmul_adapter.h"
#include "kernels/quant/encode_gradient.h"
#include "src/quant/linear_backward.h"
#include "src/quant/torch_view.h"

// Shape letters: M tokens, N outputs, K inputs, r rank of the adapter.

namespace qat {
namespace {

// y (+)= (row_scales col_scales) (a b^T)
struct Product {
  const at::Tensor& a;           // codes [M, K]
  const at::Tensor& b;           // codes [N, K]
  const at::Tensor& row_scales;  // [M] or [1]
  const at::Tensor& col_scales;  // [N] or [1]
};

void multiply(const Product& product, bool accumulate, const at::Tensor& y) {
  QAT_CHECK(product.b.defined(), "backward on codes needs transposed copies from forward");
  kernels::code_matmul(exec_for(y), const_codes(product.a), const_codes(product.b),
                       {.row_scales = const_span(product.row_scales),
                        .col_scales = const_span(product.col_scales),
                        .bias = {},
                        .accumulate = accumulate},
                       float_matrix(y));
}

// The same with an adapter's term inside the scales.
void multiply_with_adapter(const Product& product, const at::Tensor& h, const at::Tensor& t, const at::Tensor& y) {
  kernels::code_matmul_adapter(
      exec_for(y), const_codes(product.a), const_codes(product.b),
      {.row_scales = const_span(product.row_scales), .col_scales = const_span(product.col_scales), .bias = {}},
      {const_float_matrix(h), const_float_matrix(t)}, float_matrix(y));
}

// Scales of the other operand go into the gradient before it is coded, unless there is one for all: that one stays
// outside, as the scale of the product.
std::span<const float> factors(const at::Tensor& scales) {
  return scales.numel() == 1 ? std::span<const float>{} : const_span(scales);
}
const at::Tensor& outside(const at::Tensor& scales, const at::Tensor& one) {
  return scales.numel() == 1 ? scales : one;
}

struct GradientCodesOfOutput {
  at::Tensor rows, row_scales;             // for the input gradient
  at::Tensor cols_transposed, col_scales;  // for the weight gradient
};

// When the codes for the weight gradient are made: not at all, with the others, or by the read of the output gradient
// that the adapter needs anyway (adapter_backward), for which only their scales and memory are made ready.
enum class Columns : std::uint8_t { kNone, kNow, kWithAdapter };

// Codes of the output gradient with the other operands' scales folded in. Replaces a GELU pair by the gradient itself.
// sums: where the bias gradient goes, or undefined.
GradientCodesOfOutput encode_output_gradient(OutputGradient& gradient, const at::Tensor& weight_scales,
                                             const at::Tensor& input_scales, const GradientRounding& rounding,
                                             Columns columns_wanted, const at::Tensor& sums) {
  const at::Tensor& first = gradient.parts.front();
  std::int64_t columns = 0;
  for (const at::Tensor& part : gradient.parts) columns += part.size(-1);
  const std::int64_t rows = first.numel() / first.size(-1);
  const auto bytes = first.options().dtype(at::kChar), floats = first.options().dtype(at::kFloat);
  GradientCodesOfOutput out{.rows = at::empty({rows, columns}, bytes), .row_scales = at::empty({rows}, floats)};
  if (columns_wanted != Columns::kNone) {
    out.cols_transposed = at::empty({columns, rows}, bytes);
    out.col_scales = at::empty({columns}, floats);
  }
  const kernels::GradientEncoding encoding{.col_factors = factors(weight_scales),
                                           .row_factors = factors(input_scales),
                                           .row_options = gradient_options(rounding, Draw::kInput),
                                           .col_options = gradient_options(rounding, Draw::kWeight)};
  const kernels::GradientCodes codes_out{
      codes(out.rows), span_of(out.row_scales),
      columns_wanted == Columns::kNow ? codes(out.cols_transposed) : Matrix<std::int8_t>{}, span_of(out.col_scales),
      span_of(sums)};
  const kernels::Exec exec = exec_for(first);
  if (gradient.gelu_input.defined()) {
    const at::Tensor g = first;  // in place
    kernels::encode_gelu_gradient(exec, const_float_matrix(first), const_float_matrix(gradient.gelu_input),
                                  float_matrix(g), encoding, codes_out);
    gradient.gelu_input.reset();
  } else {
    kernels::encode_gradient(exec, columns_of(gradient.parts), encoding, codes_out);
  }
  return out;
}

// scaling * g^T h into fp32 [N, r].
void lora_b_gradient(const std::vector<at::Tensor>& parts, const at::Tensor& h, double scaling, const at::Tensor& out) {
  std::int64_t row = 0;
  for (const at::Tensor& part : parts) {
    at::Tensor rows = out.narrow(0, row, part.size(-1));
    h.scalar_type() == at::kFloat ? at::mm_out(rows, part.t(), h) : at::mm_out(rows, part.t(), h, at::kFloat);
    row += part.size(-1);
  }
  out.mul_(scaling);
}

// The gradient of A from the codes of h's gradient.
at::Tensor lora_a_gradient(const LinearBackward& work, const at::Tensor& cols_transposed,
                           const at::Tensor& col_scales) {
  const Coded& x = work.saved.input.codes;
  const LinearOperand& a = work.linear.adapter->a;
  at::Tensor da = fp32_at(work.places.at.lora_a, {a.rows(), a.cols()}, work.linear.one);
  multiply({cols_transposed, x.codes_transposed, col_scales, outside(x.scales, work.linear.one)}, /*accumulate=*/false,
           da);
  round_gradient_(da, work.rounding.lora_a_weight);
  return da;
}

Product input_product(const LinearBackward& work, const GradientCodesOfOutput& base) {
  const Coded& weight = work.linear.weight.codes;
  return {base.rows, weight.codes_transposed, base.row_scales, outside(weight.scales, work.linear.one)};
}

// Layer and adapter in one product each way: everything of the adapter, and the codes for the layer's weight gradient,
// from one more read of the output gradient.
void fused_adapter_backward(const LinearBackward& work, const GradientCodesOfOutput& base, LinearGradients& out) {
  const PreparedAdapter& adapter = *work.linear.adapter;
  const std::int64_t rows = base.rows.size(0), rank = adapter.a.rows();
  const at::Tensor dx_term = at::empty({rows, rank}, adapter.b.options());
  const at::Tensor cols_transposed = at::empty({rank, rows}, adapter.a.codes.codes.options());
  const at::Tensor col_scales = at::empty({rank}, work.linear.one.options());
  out.lora_b = fp32_at(work.places.at.lora_b, adapter.b.sizes(), work.linear.one);
  kernels::adapter_backward(exec_for(dx_term), columns_of(work.gradient.parts),
                            {.b = const_float_matrix(adapter.b),
                             .h = const_float_matrix(work.saved.h),
                             .x_scales = const_span(work.saved.input.codes.scales),
                             .a_scales = const_span(adapter.a.codes.scales),
                             .g_row_scales = const_span(base.row_scales),
                             .scaling = static_cast<float>(adapter.scaling)},
                            {.rows = gradient_options(work.rounding.lora_a, Draw::kInput),
                             .cols = gradient_options(work.rounding.lora_a, Draw::kWeight),
                             .db = gradient_options(work.rounding.lora_b_weight, Draw::kInput)},
                            {.db = matrix(out.lora_b),
                             .dx_term = float_matrix(dx_term),
                             .dh_cols_transposed = codes(cols_transposed),
                             .dh_col_scales = span_of(col_scales)},
                            {.options = gradient_options(work.rounding.base, Draw::kWeight),
                             .scales = const_span(base.col_scales),
                             .codes_transposed = codes(base.cols_transposed)});
  out.lora_a = lora_a_gradient(work, cols_transposed, col_scales);
  multiply_with_adapter(input_product(work, base), dx_term, adapter.a_codes, out.input);
}

// The same from separate products: any rank, dtype and GPU.
void adapter_backward_by_parts(const LinearBackward& work, const GradientCodesOfOutput& base, LinearGradients& out) {
  const PreparedAdapter& adapter = *work.linear.adapter;
  const Coded& a = adapter.a.codes;
  const at::Tensor& one = work.linear.one;
  out.lora_b = fp32_at(work.places.at.lora_b, adapter.b.sizes(), one);
  lora_b_gradient(work.gradient.parts, scaled_low(work), adapter.scaling, out.lora_b);
  round_gradient_(out.lora_b, work.rounding.lora_b_weight);
  OutputGradient dh{.parts = {times_lora_b(work.gradient.parts, adapter.b)}};
  const GradientCodesOfOutput coded =
      encode_output_gradient(dh, a.scales, work.saved.input.codes.scales, work.rounding.lora_a, Columns::kNow, {});
  out.lora_a = lora_a_gradient(work, coded.cols_transposed, coded.col_scales);
  if (adapter.in_product()) {
    const at::Tensor term = decode(coded.rows, coded.row_scales / base.row_scales, out.input.scalar_type());
    return multiply_with_adapter(input_product(work, base), term, adapter.a_codes, out.input);
  }
  multiply({coded.rows, a.codes_transposed, coded.row_scales, outside(a.scales, one)}, /*accumulate=*/false, out.input);
  multiply(input_product(work, base), /*accumulate=*/true, out.input);
}

}  // namespace

LinearGradients linear_backward_on_codes(LinearBackward& work) {
  const PreparedLinear& linear = work.linear;
  const Coded& x = work.saved.input.codes;
  QAT_CHECK(!work.places.add, "gradients from codes replace what stands in their places");
  const bool coded_adapter = linear.adapter && linear.adapter->a.is_coded();
  const bool one_read =
      coded_adapter && linear.adapter->in_product() &&
      kernels::takes_adapter_backward(exec_for(linear.one), columns_of(work.gradient.parts), linear.adapter->a.rows());
  LinearGradients out;
  if (work.needs.bias) out.bias = fp32_at(work.places.at.bias, {linear.out_features()}, linear.one);
  const bool sum_with_codes = work.gradient.parts.front().is_cuda();
  const Columns columns = !work.needs.weight ? Columns::kNone : one_read ? Columns::kWithAdapter : Columns::kNow;
  const GradientCodesOfOutput coded =
      encode_output_gradient(work.gradient, linear.weight.codes.scales, x.scales, work.rounding.base, columns,
                             sum_with_codes ? out.bias : at::Tensor());
  if (out.bias.defined() && !sum_with_codes) bias_gradient(work.gradient.parts, out.bias);
  out.input = at::empty({coded.rows.size(0), linear.in_features()}, work.gradient.parts.front().options());
  if (coded_adapter) {
    one_read ? fused_adapter_backward(work, coded, out) : adapter_backward_by_parts(work, coded, out);
  } else {
    multiply(input_product(work, coded), /*accumulate=*/false, out.input);
    if (linear.adapter) adapter_backward_on_floats(work, out);
  }
  if (work.needs.weight) {
    out.weight = fp32_at(work.places.at.weight, {linear.out_features(), linear.in_features()}, linear.one);
    multiply({coded.cols_transposed, x.codes_transposed, coded.col_scales, outside(x.scales, linear.one)},
             /*accumulate=*/false, out.weight);
  }
  return out;
}

}  // namespace qat
