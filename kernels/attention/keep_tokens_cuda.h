// The CUDA half of keep_tokens.h. Shapes are checked by keep_tokens.cc.
#pragma once

#include "kernels/attention/keep_tokens.h"

namespace qat::kernels {

void keep_tokens_cuda(const Exec& exec, ConstFloatMatrix x, BitWidth width, std::span<const std::int64_t> rows,
                      Matrix<std::int8_t> codes, std::span<float> scales);

void keep_floats_cuda(const Exec& exec, const ConstFloatMatrix& x, std::span<const std::int64_t> rows,
                      const FloatMatrix& kept);

}  // namespace qat::kernels
