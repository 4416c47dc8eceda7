// Pointing at an answer: a linear layer of two outputs a token, the logits of the answer's first and of its last token,
// and softmax over the places of a window (Devlin et al., 2019, arXiv:1810.04805, section 4.2). A window's loss is the
// mean of the two cross-entropies.
//
// Of a window of T places only some are looked at: place 0, which stands for "no answer here", and those of the
// context. All others, of the question, the separators and the padding, have a probability of 0 and get no gradient.
//
// Shape letters: B windows, T places, d width.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "src/loss/loss_scale.h"

namespace qat {

struct SpanHead {
  at::Tensor weight;  // fp32 [2, d]: of the first, of the last token
  at::Tensor bias;    // fp32 [2]
};

// h: [B, T, d], fp32 or bf16 -> fp32 [B, 2, T].
at::Tensor span_logits(const at::Tensor& h, const SpanHead& head);

// targets: int64 [B, 4]: first and last token of the answer, begin and end of the context's places (SpanTarget,
// src/data/question_windows.h). -> bool [B, 1, T]: places that are not looked at.
at::Tensor masked_places(const at::Tensor& targets, std::int64_t places);

// What a place counts in a mean over a window's tokens, up to the context's end: 1 / their number, 0 for the padding
// behind them. fp32 [B * T, 1].
at::Tensor token_shares(const at::Tensor& targets, std::int64_t places);

struct LossOfSpans {
  at::Tensor loss;    // fp32 []: sum over the windows / scale's divisor; by default the mean over them
  at::Tensor logits;  // gradient of scale.weight * loss: fp32 [B, 2, T]
};

// Of a window: (-log p_first[start] - log p_last[end]) / 2.
LossOfSpans span_cross_entropy(const at::Tensor& logits, const at::Tensor& targets, const LossScale& scale = {});

// Of a window, with p of the teacher's and q of the student's logits / temperature (Hinton et al., 2015,
// arXiv:1503.02531): (KL(p_first || q_first) + KL(p_last || q_last)) / 2 * temperature^2. The teacher gets no gradient.
LossOfSpans span_distillation(const at::Tensor& student, const at::Tensor& teacher, const at::Tensor& targets,
                              double temperature, const LossScale& scale = {});

// What gradients of the logits are for the layer before them and for its parameters.
struct SpanGradients {
  at::Tensor hidden;        // [B, T, d] in h's dtype
  at::Tensor weight, bias;  // fp32, of their shapes
};
SpanGradients span_backward(const at::Tensor& h, const SpanHead& head, const at::Tensor& d_logits);

// Negative log-likelihood of each window's answer, no gradient: fp32 [B].
at::Tensor span_nll(const at::Tensor& logits, const at::Tensor& targets);

}  // namespace qat
