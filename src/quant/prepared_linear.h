// One linear layer as whole-matrix operations on whatever device its tensors are on, without autograd: what the fused
// blocks (fused_block.h) are made of. The weights come in the form that the matrix units read, made once a step.
//
//   codes:  y = (sx sw) (qx qw^T) + b + h (s B^)^T,   h = x^ A^^T      s = alpha / r
//   plain:  y = x W^T + b
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "src/quant/gradient_rounding.h"
#include "src/quant/quantizer.h"

namespace qat {

struct PreparedLinear {
  bool on_codes = false;
  Coded weight;       // codes: [N, K], transposed for backward
  at::Tensor plain;   // plain: [N, K] in the activations' dtype
  at::Tensor bias;    // fp32 [N], or undefined
  Coded lora_a;       // codes of A: [r, K]; without an adapter undefined
  at::Tensor lora_b;  // (alpha / r) B^: [N, r] in the activations' dtype
  // Where one product serves layer and adapter (kernels/gemm/code_matmul_adapter.h), its operands in the activations'
  // dtype: (alpha / r) B^ over the weight's scales, [N, r], and A's codes, [K, r].
  at::Tensor lora_b_over_scales, lora_a_values;
  double lora_scaling = 0.0;
  at::Tensor one;  // fp32 [1]: the scale of an operand that has none

  bool has_lora() const { return lora_b.defined(); }
  bool fuses_lora() const { return lora_a_values.defined(); }
  std::int64_t out_features() const { return on_codes ? weight.codes.size(0) : plain.size(0); }
  std::int64_t in_features() const { return on_codes ? weight.codes.size(1) : plain.size(1); }
};

// How backward of each product of a layer rounds.
struct LinearRounding {
  GradientRounding base, lora_a, lora_a_weight, lora_b_weight;
};

// The input, [M, K]: codes (with transposed ones for backward) or values.
struct LinearInput {
  Coded codes;
  at::Tensor values;
};

// What backward needs besides the prepared weights.
struct LinearSaved {
  LinearInput input;  // of the codes, only the transposed ones and the scales
  at::Tensor h;       // x^ A^^T: [M, r]; without x's scales if the linear layer fuses its adapter
};

// The output gradient: up to three matrices side by side, or the gradient of gelu(y) together with y.
struct OutputGradient {
  std::vector<at::Tensor> parts;  // each [M, n_i]
  at::Tensor gelu_input;          // y [M, N], or undefined
};

struct LinearNeeds {
  bool weight = true, bias = true;
};

// Where gradients are to be written: dense fp32 of their parameter's shape, or undefined for new memory.
struct LinearPlaces {
  at::Tensor weight, bias, lora_a, lora_b;
};

struct LinearGradients {
  at::Tensor input;                         // [M, K], activations' dtype
  at::Tensor weight, bias, lora_a, lora_b;  // fp32; undefined if not needed
};

// y: [M, N] in `dtype`. Fills `saved` unless it is null.
at::Tensor linear_forward(const PreparedLinear& linear, const LinearInput& x, at::ScalarType dtype, LinearSaved* saved);

LinearGradients linear_backward(const PreparedLinear& linear, const LinearSaved& saved, const OutputGradient& gradient,
                                const LinearRounding& rounding, const LinearNeeds& needs,
                                const LinearPlaces& places = {});

}  // namespace qat
