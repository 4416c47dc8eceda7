// Dropout for autograd: kernels/activation/dropout.h, whose draws backward makes again.
#pragma once

#include <ATen/core/Tensor.h>

#include "kernels/common/philox.h"

namespace qat {

// x: any shape, fp32 or (on a GPU) bf16.   0 <= p < 1.
at::Tensor counter_dropout(const at::Tensor& x, double p, kernels::RngKey key);

// The same without autograd.
at::Tensor dropped(const at::Tensor& x, double p, kernels::RngKey key);

}  // namespace qat
