// The CUDA half of embedding.h. Shapes are checked by embedding.cc; token ids are not (the host cannot see them).
//
// Bytes that must move at 65,536 x 768, bf16: forward 100 MB, and the rows of the tables once each; backward reads dx
// once for either gradient, 100 MB, and reads and writes the rows of the tokens that occur: 0.1 ms at 3.0 TB/s with
// both and 15,000 tokens, and as long again to sort the tokens.
#pragma once

#include <span>

#include "kernels/embedding/embedding.h"

namespace qat::kernels {

void embed_cuda(const Exec& exec, std::span<const std::int64_t> tokens, std::int64_t length,
                Matrix<const float> token_table, Matrix<const float> position_table, FloatMatrix x);
void embed_backward_cuda(const Exec& exec, ConstFloatMatrix dx, std::span<const std::int64_t> tokens,
                         std::int64_t length, Matrix<float> token_gradient, Matrix<float> position_gradient);

}  // namespace qat::kernels
