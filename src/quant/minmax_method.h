// Even steps between the smallest and the largest value.
#pragma once

#include "src/quant/quant_method.h"

namespace qat {

const QuantMethod& symmetric_method();  // codes -q..q, q = 2^(b-1) - 1
const QuantMethod& affine_method();     // codes 0..2^b - 1 and a zero-point

// The smallest and largest value of each group.
CalibratedRange min_max_range(const at::Tensor& x, kernels::Axis axis);

}  // namespace qat
