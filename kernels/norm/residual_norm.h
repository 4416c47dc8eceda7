// Residual addition, layer norm and quantization in one pass over a row, forward and backward.
//
//   r = x + delta                                  (delta may be empty: r = x)
//   y = (r - mean(r)) * rstd(r) * weight + bias    mean and variance over the row, in fp32; rstd = 1/sqrt(var + eps)
//
// Ba, Kiros, Hinton, arXiv:1607.06450. All matrices [rows, cols], dense, of one dtype (CPU: fp32; CUDA: fp32 or bf16);
// arithmetic is fp32. r is rounded to the dtype before its statistics are taken, so that backward, which reads the
// stored r, sees the same numbers; y is rounded to the dtype before it is encoded.
#pragma once

#include <span>

#include "kernels/common/exec.h"
#include "kernels/common/view.h"
#include "kernels/quant/encode.h"

namespace qat::kernels {

struct NormParameters {
  std::span<const float> weight, bias;  // [cols]
  float eps = 1e-5F;
};

struct ResidualNormOut {
  FloatMatrix residual;          // r; may be empty if delta is
  FloatMatrix normed;            // y; may be empty if codes are wanted
  CodesOut codes;                // of y, symmetric, one dynamic scale per row (encode_rows); both empty: not wanted
  std::span<float> code_scales;  // [rows], with codes
  std::span<float> mean, rstd;   // [rows]
};

// `options`: of the codes; rounding is to nearest even.
void residual_norm(const Exec& exec, ConstFloatMatrix x, ConstFloatMatrix delta, const NormParameters& parameters,
                   const EncodeOptions& options, const ResidualNormOut& out);

struct ResidualNormSaved {
  ConstFloatMatrix residual;          // r
  std::span<const float> mean, rstd;  // [rows]
  std::span<const float> weight;      // [cols]
};

// dy: gradient of y. dresidual_in: gradient that reaches r past the norm (may be empty: none).
// dresidual = dresidual_in + d y/d r^T dy, the gradient of x and of delta; it may be the same memory as dresidual_in.
// dweight, dbias: [cols], overwritten; both may be empty (not wanted). Their sums over rows are taken in an order that
// the shape alone decides.
void residual_norm_backward(const Exec& exec, ConstFloatMatrix dy, const ResidualNormSaved& saved,
                            ConstFloatMatrix dresidual_in, FloatMatrix dresidual, std::span<float> dweight,
                            std::span<float> dbias);

}  // namespace qat::kernels
