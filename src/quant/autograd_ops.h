// Quantized products as autograd functions. Forward is the straight-through value; what they save for backward is codes
// and scales, not floats.
//
// Backward of y = x^ w^T with gradient g = dL/dy, at `gradient` bits (docs/training-numerics.md):
//   dx[m,k] = s1[m] * sum_n G1[m,n] qw[n,k]     G1, s1 = codes per row of      g[m,n] * sw[n]
//   dw[n,k] = s2[n] * sum_m G2[m,n] qx[m,k]     G2, s2 = codes per column of   g[m,n] * sx[m]
// At 32 gradient bits: dx = g w^, dw = g^T x^. The straight-through estimator passes both on as gradients of x and w.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "src/quant/gradient_rounding.h"
#include "src/quant/precision_map.h"
#include "src/quant/quantizer.h"

namespace qat {

// y[..., n] = x^ w^T (+ bias). x: [..., K] and w: [N, K] carry the gradient; `xq` and `wq` are their codes, with
// transposed copies if gradients are wanted at up to 8 bits.
at::Tensor code_linear(const at::Tensor& x, const at::Tensor& w, const at::Tensor& bias, const Coded& xq,
                       const Coded& wq, const GradientRounding& rounding);

// The same on floats that stand on quantized values already (or on unquantized ones): x: [..., K], w: [N, K].
at::Tensor float_linear(const at::Tensor& x, const at::Tensor& w, const at::Tensor& bias,
                        const GradientRounding& rounding);

// Quantized values with a straight-through gradient; |gradient| is clamped to `grad_clip` first if it is > 0.
at::Tensor straight_through(const at::Tensor& x, const at::Tensor& quantized, double grad_clip);

// Identity; its backward rounds the gradient to `width` bits with one dynamic scale per row (LoRA's A and B).
at::Tensor quantize_gradient_rows(const at::Tensor& x, const GradientRounding& rounding);

// A gradient's values rounded to `rounding`'s width, one dynamic scale per row (dx) or per column (dw), as floats of
// g's dtype.   g: [M, N].
at::Tensor fake_quant_gradient(const at::Tensor& g, const GradientRounding& rounding, Draw draw);
// The same per row, in place.   g: fp32, contiguous.
void round_gradient_(at::Tensor& g, const GradientRounding& rounding);

// The values that codes stand for, one scale per row, in `dtype`.
at::Tensor decode(const at::Tensor& codes, const at::Tensor& scales, at::ScalarType dtype);

}  // namespace qat
