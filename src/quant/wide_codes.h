// Codes of 9 to 11 bits, on a GPU: fp16 holds such integers exactly, where bf16 and tf32 would round the quantized
// values themselves.
#pragma once

#include <ATen/core/Tensor.h>

namespace qat {

// value = code * scale.
struct WideCoded {
  at::Tensor codes;   // fp16 [rows, cols], integers of at most 11 bits
  at::Tensor scales;  // fp32 [rows] or [1]
};

//   y[m,n] = (sx[m] * sw[n]) * sum_k qx[m,k] * qw[n,k] (+ b[n])      sums: fp32, rounded as fp32 sums are
// x: [M, K]; w: [N, K]; bias: fp32 [N] or undefined; y: [M, N] in `dtype`.
at::Tensor wide_code_matmul(const WideCoded& x, const WideCoded& w, const at::Tensor& bias, at::ScalarType dtype);

at::Tensor decode(const WideCoded& coded, at::ScalarType dtype);

}  // namespace qat
