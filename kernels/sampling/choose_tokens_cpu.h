// The CPU half of choose_tokens.h: the specification. Arguments are checked by choose_tokens.cc.
#pragma once

#include <vector>

#include "kernels/sampling/choose_tokens.h"

namespace qat::kernels {

void choose_tokens_cpu(const Exec& exec, const ConstFloatMatrix& logits, const SamplingOptions& options,
                       Matrix<std::uint8_t> seen, std::span<const std::int64_t> draws, std::span<std::int64_t> tokens,
                       std::span<std::int64_t> finite);

// The tokens' weights, after any penalty: 0 where top-k and top-p leave one out. temperature > 0, finite logits.
std::vector<std::uint64_t> sampling_weights(std::span<const float> logits, const SamplingOptions& options);
// The first token up to which the weights' sum exceeds draw / 2^53 of them all. Some weight is not 0.
std::int64_t drawn_token(std::span<const std::uint64_t> weights, std::uint64_t draw);

}  // namespace qat::kernels
