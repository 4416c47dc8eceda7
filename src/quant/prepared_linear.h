// One quantized linear layer with its adapter as whole-matrix operations on whatever device its tensors are on, without
// autograd. The operator path (linear_pass.h), the fused blocks and the output projection are made of it. The weights
// come in the form that the products read, made once a step.
//
//   codes:  y = (sx sw) (qx qw^T) + b + h (s B^)^T,   h = x^ A^^T      s = alpha / r
//   floats: y = x^ W^^T + b + h (s B^)^T                               ^: quantized, or as it is
//   an adapter that reads the raw input: h = x A^^T in floats, whatever the layer's own product takes
//
// Backward, from the output gradient g at `gradient` bits (docs/training-numerics.md):
//   dx[m,k] = s1[m] * sum_n G1[m,n] qw[n,k]     G1, s1 = codes per row of      g[m,n] * sw[n]
//   dw[n,k] = s2[n] * sum_m G2[m,n] qx[m,k]     G2, s2 = codes per column of   g[m,n] * sx[m]
// beyond 8 bits, or where the operands are no int8 codes: dx = g^ W^, dw = g^^T x^. The straight-through estimator
// passes both on as gradients of x and w. For the adapter dh = g s B^ takes g's place, A that of w, and dB = s g^T h.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

#include "src/quant/gemm_path.h"
#include "src/quant/gradient_rounding.h"
#include "src/quant/linear_operand.h"

namespace qat {

struct PreparedAdapter {
  LinearOperand a;  // A^: [r, K]; codes only if the layer's input is codes, too, and it reads them
  at::Tensor b;     // s B^: [N, r] in the activations' dtype
  bool raw_input = false;
  std::int64_t rank = 0;          // rows of A and columns of B that are the adapter's, before zeros; 0: all of them
  at::Tensor padded_a, padded_b;  // of a product with the layer: A and B with the zeros, from which it is prepared
  // Where one product serves layer and adapter (kernels/gemm/code_matmul_adapter.h), its operands in the activations'
  // dtype: s B^ over the weight's scales, [N, r], and A's codes, [K, r].
  at::Tensor b_over_scales, a_codes;
  double scaling = 0.0;  // s

  bool in_product() const { return b_over_scales.defined(); }
};

// Largest magnitude of the gradients that pass straight through a quantizer; 0: as they are.
struct GradientClips {
  double input = 0.0, weight = 0.0, adapter = 0.0;
};

struct PreparedLinear {
  LinearOperand weight;  // [N, K]; codes with transposed ones if backward runs on codes
  at::Tensor bias;       // fp32 [N], or undefined
  std::optional<PreparedAdapter> adapter;
  GradientClips clips;
  at::Tensor one;  // fp32 [1]: the scale of an operand that has none

  std::int64_t out_features() const { return weight.rows(); }
  std::int64_t in_features() const { return weight.cols(); }
};

// How backward of each product of a layer rounds.
struct LinearRounding {
  GradientRounding base, lora_a, lora_a_weight, lora_b_weight;
};

// What backward needs besides the prepared weights.
struct LinearSaved {
  LinearOperand input;  // of codes only what backward reads: the transposed ones, or those by rows
  at::Tensor h;         // x^ A^^T: [M, r]; without x's scales if one product serves layer and adapter
};

// The output gradient: up to three matrices side by side, or the gradient of gelu(y) together with y.
struct OutputGradient {
  std::vector<at::Tensor> parts;  // each [M, n_i]
  at::Tensor gelu_input{};        // y [M, N], or undefined; the part is then overwritten with y's gradient
};

struct LinearNeeds {
  bool input = true, weight = true, bias = true, adapter = true;
  bool raw_apart = false;  // what an adapter adds to the gradient that reads the raw input is LinearGradients::raw
};

// Of parameters: fp32; of the input: [M, K] in the activations' dtype. Undefined: not wanted.
struct LinearGradients {
  at::Tensor input{}, weight{}, bias{}, lora_a{}, lora_b{}, raw{};
};

// Where gradients are to be written; what is undefined goes into new memory.
struct LinearPlaces {
  LinearGradients at;
  // Parameters' gradients are added to what stands in their places, of which there must be one for each. Places of
  // weight and B may have fewer rows than these: what comes after is padding.
  bool add = false;
};

// x: [M, K]; codes have transposed ones if backward is going to run on codes, and only then: the others are not kept.
// y: [M, N] in `dtype`. Fills `saved` unless it is null.
at::Tensor linear_forward(const PreparedLinear& linear, const LinearOperand& x, at::ScalarType dtype,
                          LinearSaved* saved);

LinearGradients linear_backward(const PreparedLinear& linear, const LinearSaved& saved, OutputGradient gradient,
                                const LinearRounding& rounding, const LinearNeeds& needs,
                                const LinearPlaces& places = {});

}  // namespace qat
