// The CPU half of softmax_cross_entropy.h: the specification that other devices are tested against. Shapes are checked
// by softmax_cross_entropy.cc.
#pragma once

#include <span>

#include "kernels/loss/softmax_cross_entropy.h"

namespace qat::kernels {

void softmax_cross_entropy_cpu(const Exec& exec, FloatMatrix logits, std::int64_t classes,
                               std::span<const std::int64_t> targets, bool with_gradient, float gradient_scale,
                               std::span<float> losses);

}  // namespace qat::kernels
