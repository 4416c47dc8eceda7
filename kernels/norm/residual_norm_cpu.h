// The CPU half of residual_norm.h: the specification that other devices are tested against. Shapes are checked by
// residual_norm.cc.
#pragma once

#include <span>

#include "kernels/norm/residual_norm.h"

namespace qat::kernels {

void residual_norm_cpu(const Exec& exec, ConstFloatMatrix x, ConstFloatMatrix delta, const NormParameters& parameters,
                       const EncodeOptions& options, const ResidualNormOut& out);
void residual_norm_backward_cpu(const Exec& exec, ConstFloatMatrix dy, const ResidualNormSaved& saved,
                                ConstFloatMatrix dresidual_in, FloatMatrix dresidual, std::span<float> dweight,
                                std::span<float> dbias);

}  // namespace qat::kernels
