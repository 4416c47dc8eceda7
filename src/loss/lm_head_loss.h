// Output projection and cross-entropy in one: the logits of all tokens never exist at once.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "src/loss/lm_head.h"

namespace qat {

// Mean over tokens of -log softmax(z)[target], the first V logits.   h: [M, d]; targets: int64 [M], 0..V-1. Gradients
// reach h and the head's parameters. Works through chunks of rows whose logits take at most `chunk_bytes` (0: what
// suits the device); in a chunk, gradients replace the logits in place, so backward costs no second pass over the
// vocabulary.
at::Tensor lm_head_cross_entropy(const at::Tensor& h, const LmHead& head, const at::Tensor& targets,
                                 std::int64_t chunk_bytes = 0);

// Mean cross-entropy of logits that exist: [M, V].
at::Tensor cross_entropy(const at::Tensor& logits, const at::Tensor& targets);

// Negative log-likelihood of each target among the first V logits, no gradient: fp32 [M].
at::Tensor lm_head_token_nll(const at::Tensor& h, const LmHead& head, const at::Tensor& targets,
                             std::int64_t chunk_bytes = 0);

}  // namespace qat
