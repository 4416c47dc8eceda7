// Output projection and cross-entropy in one: the logits of all tokens never exist at once.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "src/loss/distillation.h"
#include "src/loss/lm_head.h"
#include "src/loss/loss_scale.h"

namespace qat {

struct LossOfHidden {
  at::Tensor loss;  // fp32 []: sum over tokens of -log softmax(z)[target], the first V logits, / scale's divisor
  at::Tensor distillation;    // with teachers, likewise: their loss without its weight; else undefined
  at::Tensor hidden;          // gradient of scale.weight * loss + its weight * distillation: [M, d] in h's dtype
  LinearGradients gradients;  // of the head's parameters, fp32 of their shapes; undefined: frozen, or none there
};

// h: [M, d], contiguous; targets: int64 [M], 0..V-1, or kernels::kIgnoredTarget: no loss, and a zero gradient. Works
// through chunks of rows whose logits, with those of the teachers, take at most `chunk_bytes` (0: what suits the
// device). In a chunk gradients replace the logits in place, so that they cost no second pass over the vocabulary: this
// is the head's forward and its backward, in which it asks the sink.
LossOfHidden lm_head_loss(const at::Tensor& h, const LmHead& head, const at::Tensor& targets,
                          const LossScale& scale = {}, std::int64_t chunk_bytes = 0, const Distillation& taught = {});

// The same loss of logits that exist, for autograd: [M, V].
at::Tensor cross_entropy(const at::Tensor& logits, const at::Tensor& targets, const LossScale& scale = {});

// Negative log-likelihood of each target among the first V logits: fp32 [M]; 0 where it is masked.
at::Tensor lm_head_token_nll(const at::Tensor& h, const LmHead& head, const at::Tensor& targets,
                             std::int64_t chunk_bytes = 0);

}  // namespace qat
