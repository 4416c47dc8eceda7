// The CPU half of embedding.h: the specification that other devices are tested against. Shapes are checked by
// embedding.cc.
#pragma once

#include <span>

#include "kernels/embedding/embedding.h"

namespace qat::kernels {

void embed_cpu(const Exec& exec, std::span<const std::int64_t> tokens, std::int64_t length,
               Matrix<const float> token_table, Matrix<const float> position_table, FloatMatrix x);
void embed_backward_cpu(const Exec& exec, ConstFloatMatrix dx, std::span<const std::int64_t> tokens,
                        std::int64_t length, Matrix<float> token_gradient, Matrix<float> position_gradient);

}  // namespace qat::kernels
