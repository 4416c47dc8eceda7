// The CUDA half of choose_tokens.h: the same tokens as the CPU's. Arguments are checked by choose_tokens.cc.
#pragma once

#include "kernels/sampling/choose_tokens.h"

namespace qat::kernels {

void choose_tokens_cuda(const Exec& exec, const ConstFloatMatrix& logits, const SamplingOptions& options,
                        Matrix<std::uint8_t> seen, std::span<const std::int64_t> draws, std::span<std::int64_t> tokens,
                        std::span<std::int64_t> finite);

}  // namespace qat::kernels
