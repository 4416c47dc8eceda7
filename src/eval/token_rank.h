// How far up the tokens that came stand among all that the model held possible.
#pragma once

#include <ATen/core/Tensor.h>

#include "src/model/gpt2.h"

namespace qat {

// hidden: [..., d], after the last norm; targets: int64 of as many tokens. Of each how many ids have a higher logit, or
// an equal one and a lower number; where a logit is not a number, the vocabulary's size. int64 [tokens] on the CPU.
at::Tensor token_ranks(const Gpt2& model, const at::Tensor& hidden, const at::Tensor& targets,
                       const ForwardContext& context);

}  // namespace qat
