// The two ways backward of a PreparedLinear goes. Internal to src/quant.
#pragma once

#include "kernels/quant/encode_gradient.h"
#include "src/quant/prepared_linear.h"

namespace qat {

struct LinearBackward {
  const PreparedLinear& linear;
  const LinearSaved& saved;
  OutputGradient gradient;
  const LinearRounding& rounding;
  const LinearNeeds& needs;
  const LinearPlaces& places;
};

// From int8 codes of the output gradient: operands are codes, transposed ones included, gradients have 8 bits at most.
LinearGradients linear_backward_on_codes(LinearBackward& work);
// From the values that the operands stand for.
LinearGradients linear_backward_on_floats(LinearBackward& work);

// The adapter's part of the latter, whatever the layer's own products took: adds to gradients.input.
void adapter_backward_on_floats(const LinearBackward& work, LinearGradients& gradients);

// What the adapter multiplied, in `dtype`: [M, K].
at::Tensor adapter_input(const LinearBackward& work, at::ScalarType dtype);
// g (s B^), summed over the parts of g, each of which meets its own rows of B.
at::Tensor times_lora_b(const std::vector<at::Tensor>& parts, const at::Tensor& lora_b);
// h with x's scales.
at::Tensor scaled_low(const LinearBackward& work);
// What the straight-through estimator leaves of the gradients that A and B receive, rounded.
void finish_adapter(const LinearBackward& work, LinearGradients& gradients);
// sums[n] = sum_m g[m,n].
void bias_gradient(const std::vector<at::Tensor>& parts, at::Tensor& sums);
void clip_(at::Tensor& gradient, double most);

// `place`, or new fp32 memory.
at::Tensor fp32_at(const at::Tensor& place, at::IntArrayRef sizes, const at::Tensor& like);
kernels::GradientColumns columns_of(const std::vector<at::Tensor>& parts);

}  // namespace qat
