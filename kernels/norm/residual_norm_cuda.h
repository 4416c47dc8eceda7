// The CUDA half of residual_norm.h. Shapes are checked by residual_norm.cc.
//
// Bytes that must move at bf16, per element: forward with delta, residual, codes and their transpose 8; backward 8.
// At 65,536 x 768 and 3.0 TB/s that is 0.135 ms each.
#pragma once

#include <span>

#include "kernels/norm/residual_norm.h"

namespace qat::kernels {

void residual_norm_cuda(const Exec& exec, ConstFloatMatrix x, ConstFloatMatrix delta, const NormParameters& parameters,
                        const EncodeOptions& options, const ResidualNormOut& out);
void residual_norm_backward_cuda(const Exec& exec, ConstFloatMatrix dy, const ResidualNormSaved& saved,
                                 ConstFloatMatrix dresidual_in, FloatMatrix dresidual, std::span<float> dweight,
                                 std::span<float> dbias);

}  // namespace qat::kernels
