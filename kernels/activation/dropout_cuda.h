// The CUDA half of dropout.h. Shapes are checked by dropout.cc.
#pragma once

#include "kernels/activation/dropout.h"

namespace qat::kernels {

void dropout_cuda(const Exec& exec, ConstFloatMatrix x, float p, RngKey key, FloatMatrix y);

}  // namespace qat::kernels
