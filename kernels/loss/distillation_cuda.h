// The CUDA half of distillation.h. Shapes are checked by distillation.cc. A target that is no class, nor
// kIgnoredTarget, gives a NaN loss.
//
// Bytes that must move at bf16: 2 per element and teacher, 4 per element of the student. At 16,384 x 50,304, one
// teacher and 3.0 TB/s: 1.6 ms.
#pragma once

#include <span>

#include "kernels/loss/distillation.h"

namespace qat::kernels {

void distillation_cuda(const Exec& exec, FloatMatrix logits, std::span<const ConstFloatMatrix> teachers,
                       std::int64_t classes, std::span<const std::int64_t> targets, const DistillationWeights& weights,
                       bool with_gradient, float gradient_scale, std::span<float> cross_entropy,
                       std::span<float> distillation);

}  // namespace qat::kernels
