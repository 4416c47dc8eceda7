// The CPU half of gelu.h: the specification that other devices are tested against. Shapes are checked by gelu.cc.
#pragma once

#include <span>

#include "kernels/activation/gelu.h"

namespace qat::kernels {

void gelu_cpu(const Exec& exec, ConstFloatMatrix x, FloatMatrix y);
void gelu_encode_cpu(const Exec& exec, ConstFloatMatrix x, const EncodeOptions& options, const CodesOut& out,
                     std::span<float> scales, FloatMatrix values);
void gelu_backward_cpu(const Exec& exec, ConstFloatMatrix dy, ConstFloatMatrix x, FloatMatrix dx);

}  // namespace qat::kernels
