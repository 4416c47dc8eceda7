// Output projection and cross-entropy in one: the logits of all tokens never exist at once.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace qat {

// Output projections on a GPU have a multiple of this many rows, the last of them zeros: the vocabulary of GPT-2
// (50,257) is odd, and the matrix units want aligned rows of logits.
constexpr std::int64_t kHeadRowMultiple = 128;

// w: [V, d] -> [V rounded up to kHeadRowMultiple, d] in `dtype`.
at::Tensor padded_head(const at::Tensor& w, at::ScalarType dtype);

// Mean over tokens of -log softmax(h W^T)[target], the first V logits.   h: [M, d]; w: [V, d], the fp32 parameter that
// the gradient goes to; head: what is multiplied with: w itself (CPU) or padded_head(w) in h's dtype; targets: int64
// [M], 0..V-1. Works through chunks of rows whose logits take at most `chunk_bytes` (0: what suits the device); in a
// chunk, gradients replace the logits in place, so backward costs no second pass over the vocabulary.
at::Tensor lm_head_cross_entropy(const at::Tensor& h, const at::Tensor& w, const at::Tensor& head,
                                 const at::Tensor& targets, std::int64_t chunk_bytes = 0);

// Mean cross-entropy of logits that exist: [M, V].
at::Tensor cross_entropy(const at::Tensor& logits, const at::Tensor& targets);

// Negative log-likelihood of each target among the first `classes` logits, no gradient: fp32 [M].
at::Tensor lm_head_token_nll(const at::Tensor& h, const at::Tensor& head, std::int64_t classes,
                             const at::Tensor& targets, std::int64_t chunk_bytes = 0);

}  // namespace qat
