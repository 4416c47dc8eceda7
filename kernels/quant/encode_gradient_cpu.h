// The CPU half of encode_gradient.h, the specification: a composition of encode.h's operations. Shapes are checked by
// encode_gradient.cc.
#pragma once

#include <span>

#include "kernels/quant/encode_gradient.h"

namespace qat::kernels {

void encode_gradient_cpu(const Exec& exec, const GradientColumns& g, const GradientEncoding& encoding,
                         const GradientCodes& out);
void encode_gelu_gradient_cpu(const Exec& exec, ConstFloatMatrix dy, ConstFloatMatrix x, FloatMatrix g,
                              const GradientEncoding& encoding, const GradientCodes& out);
void column_sums_cpu(const Exec& exec, const GradientColumns& g, std::span<float> sums);

}  // namespace qat::kernels
