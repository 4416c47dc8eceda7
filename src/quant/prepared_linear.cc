#include "src/quant/prepared_linear.h"

#include <ATen/ATen.h>

#include "kernels/activation/gelu.h"
#include "kernels/common/error.h"
#include "kernels/gemm/adapter_backward.h"
#include "kernels/gemm/code_matmul_adapter.h"
#include "kernels/quant/encode_gradient.h"
#include "src/quant/autograd_ops.h"
#include "src/quant/torch_view.h"

// Shape letters: M tokens, N outputs, K inputs, r rank of the adapter.

namespace qat {
namespace {

struct Product {
  const at::Tensor& a;           // codes [M, K]
  const at::Tensor& b;           // codes [N, K]
  const at::Tensor& row_scales;  // [M] or [1]
  const at::Tensor& col_scales;  // [N] or [1]
};

void multiply(const Product& product, const at::Tensor& bias, bool accumulate, const at::Tensor& y) {
  kernels::code_matmul(exec_for(y), const_codes(product.a), const_codes(product.b),
                       {.row_scales = const_span(product.row_scales),
                        .col_scales = const_span(product.col_scales),
                        .bias = const_span(bias),
                        .accumulate = accumulate},
                       float_matrix(y));
}

// The same with an adapter's term inside the scales.
void multiply_with_adapter(const Product& product, const at::Tensor& h, const at::Tensor& t, const at::Tensor& bias,
                           const at::Tensor& y) {
  kernels::code_matmul_adapter(exec_for(y), const_codes(product.a), const_codes(product.b),
                               {.row_scales = const_span(product.row_scales),
                                .col_scales = const_span(product.col_scales),
                                .bias = const_span(bias)},
                               {const_float_matrix(h), const_float_matrix(t)}, float_matrix(y));
}

// `place`, or new fp32 memory if it is undefined.
at::Tensor fp32_at(const at::Tensor& place, at::IntArrayRef sizes, const at::Tensor& like) {
  return place.defined() ? place : at::empty(sizes, like.options().dtype(at::kFloat));
}

struct GradientCodesOfOutput {
  at::Tensor rows, row_scales;             // for the input gradient
  at::Tensor cols_transposed, col_scales;  // for the weight gradient
};

kernels::GradientColumns columns_of(const std::vector<at::Tensor>& parts) {
  kernels::GradientColumns columns;
  QAT_CHECK(parts.size() <= columns.parts.size(), "an output gradient comes in at most three parts");
  for (const at::Tensor& part : parts)
    columns.parts[static_cast<std::size_t>(columns.count++)] = const_float_matrix(part);
  return columns;
}

std::int64_t total_columns(const std::vector<at::Tensor>& parts) {
  std::int64_t columns = 0;
  for (const at::Tensor& part : parts) columns += part.size(-1);
  return columns;
}

// When the codes for the weight gradient are made: not at all, with the others, or by the read of the output gradient
// that the adapter needs anyway (adapter_backward), for which only their scales and memory are made ready.
enum class Columns : std::uint8_t { kNone, kNow, kWithAdapter };

// Codes of the output gradient with the other operands' scales folded in. Replaces a GELU pair by the gradient itself.
// sums: where the bias gradient goes, or undefined.
GradientCodesOfOutput encode_output_gradient(OutputGradient& gradient, const at::Tensor& weight_scales,
                                             const at::Tensor& input_scales, const GradientRounding& rounding,
                                             Columns columns_wanted, const at::Tensor& sums) {
  const at::Tensor& first = gradient.parts.front();
  const std::int64_t columns = total_columns(gradient.parts), rows = first.numel() / first.size(-1);
  const auto bytes = first.options().dtype(at::kChar), floats = first.options().dtype(at::kFloat);
  GradientCodesOfOutput out{.rows = at::empty({rows, columns}, bytes), .row_scales = at::empty({rows}, floats)};
  if (columns_wanted != Columns::kNone) {
    out.cols_transposed = at::empty({columns, rows}, bytes);
    out.col_scales = at::empty({columns}, floats);
  }
  const kernels::GradientEncoding encoding{.col_factors = const_span(weight_scales),
                                           .row_factors = const_span(input_scales),
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

// g (s B^), summed over the parts of g, each of which meets its own rows of B.
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

// scaling * g^T h: fp32 [N, r].
at::Tensor lora_b_gradient(const std::vector<at::Tensor>& parts, const at::Tensor& h, double scaling) {
  std::vector<at::Tensor> rows;
  rows.reserve(parts.size());
  for (const at::Tensor& part : parts)
    rows.push_back(part.scalar_type() == at::kFloat ? at::mm(part.t(), h) : at::mm(part.t(), h, at::kFloat));
  return at::cat(rows).mul_(scaling);
}

// What backward of a layer works with.
struct Backward {
  const PreparedLinear& linear;
  const LinearSaved& saved;
  const std::vector<at::Tensor>& parts;  // of the output gradient
  const LinearRounding& rounding;
  const LinearPlaces& places;
};

// The gradient of A from the codes of h's gradient.
at::Tensor lora_a_gradient(const Backward& b, const at::Tensor& cols_transposed, const at::Tensor& col_scales) {
  at::Tensor da = fp32_at(b.places.lora_a, b.linear.lora_a.codes.sizes(), b.linear.one);
  multiply({cols_transposed, b.saved.input.codes.codes_transposed, col_scales, b.linear.one}, {}, /*accumulate=*/false,
           da);
  round_gradient_(da, b.rounding.lora_a_weight);
  return da;
}

// Layer and adapter in one product each way: everything of the adapter, and the codes for the layer's weight gradient,
// from one more read of the output gradient.
void fused_adapter_backward(const Backward& b, const GradientCodesOfOutput& base, LinearGradients& out) {
  const PreparedLinear& linear = b.linear;
  const std::int64_t rows = base.rows.size(0), rank = linear.lora_a.codes.size(0);
  const at::Tensor& x_scales = b.saved.input.codes.scales;
  const at::Tensor dx_term = at::empty({rows, rank}, linear.lora_b.options());
  const at::Tensor cols_transposed = at::empty({rank, rows}, linear.lora_a.codes.options());
  const at::Tensor col_scales = at::empty({rank}, linear.one.options());
  out.lora_b = fp32_at(b.places.lora_b, linear.lora_b.sizes(), linear.one);
  kernels::adapter_backward(exec_for(dx_term), columns_of(b.parts),
                            {.b = const_float_matrix(linear.lora_b),
                             .h = const_float_matrix(b.saved.h),
                             .x_scales = const_span(x_scales),
                             .a_scales = const_span(linear.lora_a.scales),
                             .g_row_scales = const_span(base.row_scales),
                             .scaling = static_cast<float>(linear.lora_scaling)},
                            {.rows = gradient_options(b.rounding.lora_a, Draw::kInput),
                             .cols = gradient_options(b.rounding.lora_a, Draw::kWeight),
                             .db = gradient_options(b.rounding.lora_b_weight, Draw::kInput)},
                            {.db = matrix(out.lora_b),
                             .dx_term = float_matrix(dx_term),
                             .dh_cols_transposed = codes(cols_transposed),
                             .dh_col_scales = span_of(col_scales)},
                            {.options = gradient_options(b.rounding.base, Draw::kWeight),
                             .scales = const_span(base.col_scales),
                             .codes_transposed = codes(base.cols_transposed)});
  out.lora_a = lora_a_gradient(b, cols_transposed, col_scales);
  multiply_with_adapter({base.rows, linear.weight.codes_transposed, base.row_scales, linear.one}, dx_term,
                        linear.lora_a_values, {}, out.input);
}

// The same from separate products: any rank, dtype and GPU.
void adapter_backward_by_parts(const Backward& b, const GradientCodesOfOutput& base, LinearGradients& out) {
  const PreparedLinear& linear = b.linear;
  const Coded& x = b.saved.input.codes;
  const at::Tensor h =
      linear.fuses_lora() ? at::mul(b.saved.h, x.scales.unsqueeze(1)).to(b.saved.h.scalar_type()) : b.saved.h;
  out.lora_b = lora_b_gradient(b.parts, h, linear.lora_scaling);
  round_gradient_(out.lora_b, b.rounding.lora_b_weight);
  OutputGradient dh{.parts = {times_lora_b(b.parts, linear.lora_b)}, .gelu_input = {}};
  const GradientCodesOfOutput coded =
      encode_output_gradient(dh, linear.lora_a.scales, x.scales, b.rounding.lora_a, Columns::kNow, {});
  out.lora_a = lora_a_gradient(b, coded.cols_transposed, coded.col_scales);
  const Product layer{base.rows, linear.weight.codes_transposed, base.row_scales, linear.one};
  if (linear.fuses_lora()) {
    const at::Tensor term = decode(coded.rows, coded.row_scales / base.row_scales, out.input.scalar_type());
    return multiply_with_adapter(layer, term, linear.lora_a_values, {}, out.input);
  }
  multiply({coded.rows, linear.lora_a.codes_transposed, coded.row_scales, linear.one}, {}, /*accumulate=*/false,
           out.input);
  multiply(layer, {}, /*accumulate=*/true, out.input);
}

LinearGradients backward_codes(const PreparedLinear& linear, const LinearSaved& saved, OutputGradient gradient,
                               const LinearRounding& rounding, const LinearNeeds& needs, const LinearPlaces& places) {
  const Coded& x = saved.input.codes;
  LinearGradients out;
  if (needs.bias) out.bias = fp32_at(places.bias, {linear.out_features()}, linear.one);
  const bool one_read =
      linear.fuses_lora() &&
      kernels::takes_adapter_backward(exec_for(linear.one), columns_of(gradient.parts), linear.lora_a.codes.size(0));
  const Columns columns = !needs.weight ? Columns::kNone : one_read ? Columns::kWithAdapter : Columns::kNow;
  const GradientCodesOfOutput coded =
      encode_output_gradient(gradient, linear.weight.scales, x.scales, rounding.base, columns, out.bias);
  out.input = at::empty({coded.rows.size(0), linear.in_features()}, gradient.parts.front().options());
  const Backward backward{linear, saved, gradient.parts, rounding, places};
  if (!linear.has_lora()) {
    multiply({coded.rows, linear.weight.codes_transposed, coded.row_scales, linear.one}, {}, /*accumulate=*/false,
             out.input);
  } else {
    one_read ? fused_adapter_backward(backward, coded, out) : adapter_backward_by_parts(backward, coded, out);
  }
  if (needs.weight) {
    out.weight = fp32_at(places.weight, {linear.out_features(), linear.in_features()}, linear.one);
    multiply({coded.cols_transposed, x.codes_transposed, coded.col_scales, linear.one}, {}, /*accumulate=*/false,
             out.weight);
  }
  return out;
}

LinearGradients backward_plain(const PreparedLinear& linear, const LinearSaved& saved, const OutputGradient& gradient,
                               const LinearNeeds& needs, const LinearPlaces& places) {
  const at::Tensor g = gradient.parts.size() == 1 ? gradient.parts.front() : at::cat(gradient.parts, /*dim=*/1);
  if (gradient.gelu_input.defined())
    kernels::gelu_backward(exec_for(g), const_float_matrix(g), const_float_matrix(gradient.gelu_input),
                           float_matrix(g));
  LinearGradients out;
  out.input = at::mm(g, linear.plain);
  if (needs.weight) {
    const at::Tensor& x = saved.input.values;
    out.weight = fp32_at(places.weight, {g.size(1), x.size(1)}, g);
    g.scalar_type() == at::kFloat ? at::mm_out(out.weight, g.t(), x) : at::mm_out(out.weight, g.t(), x, at::kFloat);
  }
  if (needs.bias) {
    out.bias = fp32_at(places.bias, {g.size(1)}, g);
    kernels::column_sums(exec_for(g), columns_of({g}), span_of(out.bias));
  }
  return out;
}

}  // namespace

at::Tensor linear_forward(const PreparedLinear& linear, const LinearInput& x, at::ScalarType dtype,
                          LinearSaved* saved) {
  if (!linear.on_codes) {
    if (saved != nullptr) saved->input.values = x.values;
    return at::linear(x.values, linear.plain, linear.bias.defined() ? linear.bias.to(dtype) : at::Tensor());
  }
  const auto options = x.codes.scales.options().dtype(dtype);
  at::Tensor y = at::empty({x.codes.codes.size(0), linear.out_features()}, options);
  const Product layer{x.codes.codes, linear.weight.codes, x.codes.scales, linear.weight.scales};
  if (linear.has_lora()) {
    at::Tensor h = at::empty({x.codes.codes.size(0), linear.lora_a.codes.size(0)}, options);
    const at::Tensor& row_scales = linear.fuses_lora() ? linear.one : x.codes.scales;
    multiply({x.codes.codes, linear.lora_a.codes, row_scales, linear.lora_a.scales}, {}, /*accumulate=*/false, h);
    if (linear.fuses_lora()) {
      multiply_with_adapter(layer, h, linear.lora_b_over_scales, linear.bias, y);
    } else {
      at::mm_out(y, h, linear.lora_b.t());
      multiply(layer, linear.bias, /*accumulate=*/true, y);
    }
    if (saved != nullptr) saved->h = std::move(h);
  } else {
    multiply(layer, linear.bias, /*accumulate=*/false, y);
  }
  if (saved != nullptr)
    saved->input.codes = {.codes = {}, .codes_transposed = x.codes.codes_transposed, .scales = x.codes.scales};
  return y;
}

LinearGradients linear_backward(const PreparedLinear& linear, const LinearSaved& saved, const OutputGradient& gradient,
                                const LinearRounding& rounding, const LinearNeeds& needs, const LinearPlaces& places) {
  return linear.on_codes ? backward_codes(linear, saved, gradient, rounding, needs, places)
                         : backward_plain(linear, saved, gradient, needs, places);
}

}  // namespace qat
