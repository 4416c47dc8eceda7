// Output projection and cross-entropy in one: the logits of all tokens never exist at once.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace qat {

// Mean over tokens of -log softmax(h W^T)[target].   h: [M, d]; w: [V, d]; targets: int64 [M], 0..V-1.
// Works through chunks of rows whose logits take at most `chunk_bytes`; in a chunk, gradients replace the logits in
// place, so backward costs no second pass over the vocabulary.
at::Tensor lm_head_cross_entropy(const at::Tensor& h, const at::Tensor& w, const at::Tensor& targets,
                                 std::int64_t chunk_bytes = std::int64_t{32} << 20);

// Mean cross-entropy of logits that exist: [M, V].
at::Tensor cross_entropy(const at::Tensor& logits, const at::Tensor& targets);

// Negative log-likelihood of each target, no gradient: fp32 [M].
at::Tensor lm_head_token_nll(const at::Tensor& h, const at::Tensor& w, const at::Tensor& targets,
                             std::int64_t chunk_bytes = std::int64_t{32} << 20);

}  // namespace qat
