// Backward from the values that a layer's operands stand for: more than 8 gradient bits, operands that are no int8
// codes, and the output projection.
#include <ATen/ATen.h>

#include <algorithm>

#include "kernels/activation/gelu.h"
#include "kernels/common/error.h"
#include "kernels/quant/encode_gradient.h"
#include "src/quant/linear_backward.h"
#include "src/quant/torch_view.h"

// Shape letters: M tokens, N outputs, K inputs, r rank of the adapter.

namespace qat {
namespace {

// sum (+)= scale * a^T b in fp32, whatever the operands' dtype.
void multiply_rows(at::Tensor sum, const at::Tensor& a, const at::Tensor& b, bool add, double scale) {
  const bool fp32 = a.scalar_type() == at::kFloat;
  if (add) {
    fp32 ? sum.addmm_(a.t(), b, /*beta=*/1, scale) : at::addmm_out(sum, sum, a.t(), b, at::kFloat, /*beta=*/1, scale);
    return;
  }
  fp32 ? at::mm_out(sum, a.t(), b) : at::mm_out(sum, a.t(), b, at::kFloat);
  if (scale != 1.0) sum.mul_(scale);
}

// The same for as many columns of a as sum has rows. On a GPU those beyond the last multiple of eight go apart: an odd
// number would make the whole product take a kernel that is half as fast.
void multiply_columns(const at::Tensor& sum, const at::Tensor& a, const at::Tensor& b, bool add, double scale = 1.0) {
  const std::int64_t rows = sum.size(0), even = a.is_cuda() ? rows / 8 * 8 : rows;
  if (even > 0) multiply_rows(sum.narrow(0, 0, even), a.narrow(1, 0, even), b, add, scale);
  if (even < rows) multiply_rows(sum.narrow(0, even, rows - even), a.narrow(1, even, rows - even), b, add, scale);
}

// The output gradient as one matrix: that of y itself if it came as gelu(y)'s.
at::Tensor whole(const OutputGradient& gradient) {
  at::Tensor g = gradient.parts.size() == 1 ? gradient.parts.front().contiguous() : at::cat(gradient.parts, 1);
  if (gradient.gelu_input.defined())
    kernels::gelu_backward(exec_for(g), const_float_matrix(g), const_float_matrix(gradient.gelu_input),
                           float_matrix(g));
  return g;
}

void add_adapter(const LinearBackward& work, const std::vector<at::Tensor>& parts, LinearGradients& out) {
  const PreparedAdapter& adapter = *work.linear.adapter;
  const at::ScalarType dtype = parts.front().scalar_type();
  const at::Tensor dh = times_lora_b(parts, adapter.b);  // [M, r]
  if (out.input.defined()) {
    const at::Tensor rounded = rounded_gradient(dh, work.rounding.lora_a, Draw::kInput);
    if (work.needs.raw_apart)
      out.raw = at::mm(rounded, values_of(adapter.a, dtype));
    else
      out.input.addmm_(rounded, values_of(adapter.a, dtype));
  }
  if (!work.needs.adapter) return;
  const LinearGradients& at = work.places.at;
  out.lora_a = fp32_at(at.lora_a, {adapter.a.rows(), adapter.a.cols()}, dh);
  multiply_columns(out.lora_a, rounded_gradient(dh, work.rounding.lora_a, Draw::kWeight), adapter_input(work, dtype),
                   work.places.add);
  out.lora_b = fp32_at(at.lora_b, adapter.b.sizes(), dh);
  const at::Tensor h = scaled_low(work);
  std::int64_t row = 0;
  for (const at::Tensor& part : parts) {  // the last one may have columns of padding
    const std::int64_t rows = std::min(part.size(-1), out.lora_b.size(0) - row);
    multiply_columns(out.lora_b.narrow(0, row, rows), part, h, work.places.add, adapter.scaling);
    row += rows;
  }
  finish_adapter(work, out);
}

}  // namespace

void adapter_backward_on_floats(const LinearBackward& work, LinearGradients& gradients) {
  QAT_CHECK(!work.gradient.gelu_input.defined(), "GELU's gradient is that of its input by now");
  add_adapter(work, work.gradient.parts, gradients);
}

LinearGradients linear_backward_on_floats(LinearBackward& work) {
  const PreparedLinear& linear = work.linear;
  const at::Tensor g = whole(work.gradient);
  const LinearGradients& at = work.places.at;
  LinearGradients out;
  if (work.needs.input) {
    out.input = at.input.defined() ? at.input : at::empty({g.size(0), linear.in_features()}, g.options());
    at::mm_out(out.input, rounded_gradient(g, work.rounding.base, Draw::kInput),
               values_of(linear.weight, g.scalar_type()));
  }
  if (work.needs.weight) {
    out.weight = fp32_at(at.weight, {linear.out_features(), linear.in_features()}, g);
    multiply_columns(out.weight, rounded_gradient(g, work.rounding.base, Draw::kWeight),
                     values_of(work.saved.input, g.scalar_type()), work.places.add);
    clip_(out.weight, linear.clips.weight);
  }
  if (work.needs.bias) {
    out.bias = fp32_at(at.bias, {linear.out_features()}, g);
    bias_gradient({g}, out.bias);
  }
  // What an adapter adds that reads the raw input passed no quantizer.
  const bool raw = linear.adapter && linear.adapter->raw_input;
  if (raw) clip_(out.input, linear.clips.input);
  if (linear.adapter) add_adapter(work, {g}, out);
  if (!raw) clip_(out.input, linear.clips.input);
  return out;
}

}  // namespace qat
