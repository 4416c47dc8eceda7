// Linear layers on codes of 9 to 11 bits, on a GPU: fp16 holds such integers exactly, where bf16 and tf32 would round
// the quantized values themselves.
//
//   y[m,n] = (sx[m] * sw[n]) * sum_k qx[m,k] * qw[n,k] (+ b[n])      qx, qw: fp16; sums: fp32, rounded as fp32 sums are
#pragma once

#include <ATen/core/Tensor.h>

#include "src/quant/gradient_rounding.h"

namespace qat {

// value = code * scale.
struct WideCoded {
  at::Tensor codes;   // fp16 [rows, cols], integers of at most 11 bits
  at::Tensor scales;  // fp32 [rows] or [1]
};

// x: [..., K] of fp32 or bf16; w: [N, K], the parameter; bias: [N] or undefined; y in x's dtype. Backward: gradients of
// x and w go straight through to them; its products run in x's dtype on the quantized values, with the output gradient
// rounded as `rounding` says.
at::Tensor wide_code_linear(const at::Tensor& x, const at::Tensor& w, const at::Tensor& bias, const WideCoded& xq,
                            const WideCoded& wq, const GradientRounding& rounding);

}  // namespace qat
