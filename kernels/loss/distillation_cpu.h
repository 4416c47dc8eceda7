// The CPU half of distillation.h: the specification that other devices are tested against. Shapes are checked by
// distillation.cc.
#pragma once

#include <span>

#include "kernels/loss/distillation.h"

namespace qat::kernels {

void distillation_cpu(const Exec& exec, FloatMatrix logits, std::span<const ConstFloatMatrix> teachers,
                      std::int64_t classes, std::span<const std::int64_t> targets, const DistillationWeights& weights,
                      bool with_gradient, float gradient_scale, std::span<float> cross_entropy,
                      std::span<float> distillation);

}  // namespace qat::kernels
