// The CUDA half of softmax_cross_entropy.h. Shapes are checked by softmax_cross_entropy.cc. A target that is no class,
// nor kIgnoredTarget, gives a NaN loss: looking at the targets on the host would stall the stream.
//
// Bytes that must move at bf16: 4 per element with the gradient, 2 without. At 16,384 x 50,304 and 3.0 TB/s: 1.1 ms.
#pragma once

#include <span>

#include "kernels/loss/softmax_cross_entropy.h"

namespace qat::kernels {

void softmax_cross_entropy_cuda(const Exec& exec, FloatMatrix logits, std::int64_t classes,
                                std::span<const std::int64_t> targets, bool with_gradient, float gradient_scale,
                                std::span<float> losses);

}  // namespace qat::kernels
