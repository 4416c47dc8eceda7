#include "src/quant/prepared_linear.h"

#include <ATen/ATen.h>

#include "kernels/common/error.h"
#include "kernels/gemm/code_matmul_coded_adapter.h"
#include "src/quant/linear_backward.h"
#include "src/quant/torch_view.h"

// Shape letters: M tokens, N outputs, K inputs, r rank of the adapter.

namespace qat {
namespace {

at::Tensor empty_like_rows(const LinearOperand& x, std::int64_t columns, at::ScalarType dtype) {
  return at::empty({x.rows(), columns}, x.matrix().options().dtype(dtype));
}

// y (+)= the layer's own product and bias.
void multiply_codes(const PreparedLinear& linear, const Coded& x, bool accumulate, const at::Tensor& y) {
  kernels::code_matmul(exec_for(y), const_codes(x.codes), const_codes(linear.weight.codes.codes),
                       {.row_scales = const_span(x.scales),
                        .col_scales = const_span(linear.weight.codes.scales),
                        .bias = const_span(linear.bias),
                        .accumulate = accumulate},
                       float_matrix(y));
}

// h = x^ A^^T: [M, r]; without x's scales if the adapter is in the layer's product.
at::Tensor low(const PreparedLinear& linear, const LinearOperand& x, at::ScalarType dtype) {
  const PreparedAdapter& adapter = *linear.adapter;
  if (adapter.raw_input) return at::mm(x.raw, adapter.a.values.t());
  if (adapter.a.is_wide()) return wide_code_matmul(x.wide, adapter.a.wide, {}, dtype);
  if (!adapter.a.is_coded()) return at::mm(values_of(x, dtype), adapter.a.values.t());
  at::Tensor h = empty_like_rows(x, adapter.a.rows(), dtype);
  const at::Tensor& row_scales = adapter.in_product() ? linear.one : x.codes.scales;
  kernels::code_matmul(exec_for(h), const_codes(x.codes.codes), const_codes(adapter.a.codes.codes),
                       {.row_scales = const_span(row_scales), .col_scales = const_span(adapter.a.codes.scales)},
                       float_matrix(h));
  return h;
}

at::Tensor forward_on_codes(const PreparedLinear& linear, const LinearOperand& x, const at::Tensor& h,
                            at::ScalarType dtype) {
  at::Tensor y = empty_like_rows(x, linear.out_features(), dtype);
  if (!linear.adapter) {
    multiply_codes(linear, x.codes, /*accumulate=*/false, y);
  } else if (linear.adapter->in_product()) {
    kernels::code_matmul_adapter(exec_for(y), const_codes(x.codes.codes), const_codes(linear.weight.codes.codes),
                                 {.row_scales = const_span(x.codes.scales),
                                  .col_scales = const_span(linear.weight.codes.scales),
                                  .bias = const_span(linear.bias)},
                                 {const_float_matrix(h), const_float_matrix(linear.adapter->b_over_scales)},
                                 float_matrix(y));
  } else {
    at::mm_out(y, h, linear.adapter->b.t());
    multiply_codes(linear, x.codes, /*accumulate=*/true, y);
  }
  return y;
}

// Whether a product makes the adapter's h on the way.
bool makes_low(const PreparedLinear& linear, const LinearOperand& x, at::ScalarType dtype) {
  if (!linear.adapter || !linear.weight.is_coded() || !linear.adapter->in_product() || linear.adapter->raw_input ||
      !linear.adapter->a.is_coded())
    return false;
  const at::Tensor& codes = x.codes.codes;
  return kernels::takes_coded_adapter(exec_for(codes), codes.size(0), linear.out_features(), codes.size(1),
                                      linear.adapter->a.rows(),
                                      dtype == at::kBFloat16 ? DType::kBFloat16 : DType::kFloat32);
}

at::Tensor forward_with_low(const PreparedLinear& linear, const LinearOperand& x, at::ScalarType dtype) {
  const PreparedAdapter& adapter = *linear.adapter;
  const auto codes = const_codes(x.codes.codes), weight = const_codes(linear.weight.codes.codes);
  at::Tensor y = empty_like_rows(x, linear.out_features(), dtype);
  const kernels::Exec exec = exec_for(y);
  const at::Tensor scratch =
      at::empty({kernels::coded_adapter_scratch(exec, codes.rows, weight.rows, codes.cols, adapter.a.rows())},
                y.options().dtype(at::kInt));
  kernels::code_matmul_coded_adapter(
      exec, codes, weight,
      {.row_scales = const_span(x.codes.scales),
       .col_scales = const_span(linear.weight.codes.scales),
       .bias = const_span(linear.bias)},
      {.a = const_codes(adapter.a.codes.codes),
       .a_scales = const_span(adapter.a.codes.scales),
       .t = const_float_matrix(adapter.b_over_scales)},
      float_matrix(y), {scratch.mutable_data_ptr<std::int32_t>(), static_cast<std::size_t>(scratch.numel())});
  return y;
}

at::Tensor forward_on_floats(const PreparedLinear& linear, const LinearOperand& x, const at::Tensor& h,
                             at::ScalarType dtype) {
  at::Tensor y = linear.weight.is_wide() ? wide_code_matmul(x.wide, linear.weight.wide, linear.bias, dtype)
                                         : at::linear(x.values, linear.weight.values,
                                                      linear.bias.defined() ? linear.bias.to(dtype) : at::Tensor());
  if (linear.adapter) y.add_(at::mm(h, linear.adapter->b.t()));
  return y;
}

// Of codes one copy will do: backward on codes reads the transposed ones, any other way those by rows.
LinearOperand kept(const PreparedLinear& linear, LinearOperand x) {
  const bool reads_values = linear.adapter && !linear.adapter->a.is_coded() && !linear.adapter->raw_input;
  if (x.codes.codes_transposed.defined() && !reads_values) x.codes.codes.reset();
  return x;
}

// Of a padded adapter's gradient what belongs to the adapter, in its place if it has one.
void cut(at::Tensor& gradient, int dim, std::int64_t rank, const at::Tensor& place) {
  if (!gradient.defined()) return;
  const at::Tensor own = gradient.narrow(dim, 0, rank);
  gradient = place.defined() ? place.copy_(own) : own.contiguous();
}

}  // namespace

at::Tensor linear_forward(const PreparedLinear& linear, const LinearOperand& x, at::ScalarType dtype,
                          LinearSaved* saved) {
  if (saved == nullptr && makes_low(linear, x, dtype)) return forward_with_low(linear, x, dtype);
  const at::Tensor h = linear.adapter ? low(linear, x, dtype) : at::Tensor();
  at::Tensor y =
      linear.weight.is_coded() ? forward_on_codes(linear, x, h, dtype) : forward_on_floats(linear, x, h, dtype);
  if (saved != nullptr) *saved = {.input = kept(linear, x), .h = h};
  return y;
}

LinearGradients linear_backward(const PreparedLinear& linear, const LinearSaved& saved, OutputGradient gradient,
                                const LinearRounding& rounding, const LinearNeeds& needs, const LinearPlaces& places) {
  const bool padded = linear.adapter && linear.adapter->rank > 0 && linear.adapter->rank < linear.adapter->b.size(1);
  QAT_CHECK(!padded || !places.add, "a padded adapter's gradients replace what stands in their places");
  LinearPlaces whole = places;
  if (padded) whole.at.lora_a.reset(), whole.at.lora_b.reset();
  LinearBackward work{linear, saved, std::move(gradient), rounding, needs, whole};
  LinearGradients out = linear.weight.is_coded() && backward_on_codes(rounding.base) ? linear_backward_on_codes(work)
                                                                                     : linear_backward_on_floats(work);
  if (padded) {
    cut(out.lora_a, 0, linear.adapter->rank, places.at.lora_a);
    cut(out.lora_b, 1, linear.adapter->rank, places.at.lora_b);
  }
  return out;
}

at::Tensor adapter_input(const LinearBackward& work, at::ScalarType dtype) {
  const LinearOperand& input = work.saved.input;
  return work.linear.adapter->raw_input ? input.raw.to(dtype) : values_of(input, dtype);
}

at::Tensor times_lora_b(const std::vector<at::Tensor>& parts, const at::Tensor& lora_b) {
  at::Tensor dh;
  std::int64_t row = 0;
  for (const at::Tensor& part : parts) {
    const at::Tensor b = lora_b.narrow(0, row, part.size(-1));
    dh = dh.defined() ? at::addmm(dh, part, b) : at::mm(part, b);
    row += part.size(-1);
  }
  return dh;
}

at::Tensor scaled_low(const LinearBackward& work) {
  const at::Tensor& h = work.saved.h;
  if (!work.linear.adapter->in_product()) return h;
  return at::mul(h, work.saved.input.codes.scales.unsqueeze(1)).to(h.scalar_type());
}

void clip_(at::Tensor& gradient, double most) {
  if (most > 0.0 && gradient.defined()) gradient.clamp_(-most, most);
}

void finish_adapter(const LinearBackward& work, LinearGradients& gradients) {
  clip_(gradients.lora_a, work.linear.clips.adapter), clip_(gradients.lora_b, work.linear.clips.adapter);
  round_gradient_(gradients.lora_a, work.rounding.lora_a_weight);
  round_gradient_(gradients.lora_b, work.rounding.lora_b_weight);
}

void bias_gradient(const std::vector<at::Tensor>& parts, at::Tensor& sums) {
  if (sums.is_cuda()) return kernels::column_sums(exec_for(sums), columns_of(parts), span_of(sums));
  std::int64_t column = 0;
  for (const at::Tensor& part : parts) {
    at::Tensor piece = sums.narrow(0, column, part.size(-1));
    at::sum_out(piece, part, {0}, /*keepdim=*/false, at::kFloat);
    column += part.size(-1);
  }
}

at::Tensor fp32_at(const at::Tensor& place, at::IntArrayRef sizes, const at::Tensor& like) {
  return place.defined() ? place : at::empty(sizes, like.options().dtype(at::kFloat));
}

kernels::GradientColumns columns_of(const std::vector<at::Tensor>& parts) {
  kernels::GradientColumns columns;
  QAT_CHECK(parts.size() <= columns.parts.size(), "an output gradient comes in at most three parts");
  for (const at::Tensor& part : parts)
    columns.parts[static_cast<std::size_t>(columns.count++)] = const_float_matrix(part);
  return columns;
}

}  // namespace qat
