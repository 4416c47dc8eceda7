// The straight-through estimator (Bengio et al., 2013, arXiv:1308.3432) for autograd.
#pragma once

#include <ATen/core/Tensor.h>

namespace qat {

// The values of `quantized`, whose gradient goes to x as it is.
at::Tensor straight_through(const at::Tensor& x, const at::Tensor& quantized);

}  // namespace qat
