// How fast this device multiplies codes when it does nothing else: what a run's speed is measured against.
#pragma once

#include <cstdint>

#include "src/quant/torch_device.h"

namespace qat {

// Operations a second (2 M N K a product) of a product of int8 codes with its scales, M = 8192, N = K = 4096 by
// default: the best of a few, after one that chooses its kernels. Takes some tens of milliseconds of a GPU, and gives
// its memory back.
struct ProductShape {
  std::int64_t m = 8192, n = 4096, k = 4096;
};
double measured_product_peak(const ComputeMode& mode, const ProductShape& shape = {});

}  // namespace qat
