// The CUDA half of encode_gradient.h. Shapes are checked by encode_gradient.cc; every matrix and span is device memory.
#pragma once

#include <span>

#include "kernels/quant/encode_gradient.h"

namespace qat::kernels {

void encode_gradient_cuda(const Exec& exec, const GradientColumns& g, const GradientEncoding& encoding,
                          const GradientCodes& out);
void encode_gelu_gradient_cuda(const Exec& exec, ConstFloatMatrix dy, ConstFloatMatrix x, FloatMatrix g,
                               const GradientEncoding& encoding, const GradientCodes& out);
void column_sums_cuda(const Exec& exec, const GradientColumns& g, std::span<float> sums);

}  // namespace qat::kernels
