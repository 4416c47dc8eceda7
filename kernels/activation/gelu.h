// GPT-2's tanh GELU (Hendrycks & Gimpel, arXiv:1606.08415), alone or with the quantization of what follows it.
//
//   gelu(x) = 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))
//
// Matrices [rows, cols], dense, of one dtype (CPU: fp32; CUDA: fp32 or bf16); arithmetic is fp32. A result is rounded
// to the dtype before it is encoded.
#pragma once

#include <span>

#include "kernels/common/exec.h"
#include "kernels/common/view.h"
#include "kernels/quant/encode.h"

namespace qat::kernels {

// y may be x.
void gelu(const Exec& exec, ConstFloatMatrix x, FloatMatrix y);

// Codes of gelu(x), one dynamic scale per row (encode_rows of gelu(x)).   scales: [rows]. values: gelu(x) itself;
// empty: not wanted.
void gelu_encode(const Exec& exec, ConstFloatMatrix x, const EncodeOptions& options, const CodesOut& out,
                 std::span<float> scales, FloatMatrix values = {});

// dx = dy * gelu'(x).   dx may be dy.
void gelu_backward(const Exec& exec, ConstFloatMatrix dy, ConstFloatMatrix x, FloatMatrix dx);

}  // namespace qat::kernels
