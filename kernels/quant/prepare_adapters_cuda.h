// The CUDA half of prepare_adapters.h. Shapes are checked by prepare_adapters.cc, alignment here; every matrix and span
// is device memory.
#pragma once

#include <span>

#include "kernels/quant/prepare_adapters.h"

namespace qat::kernels {

void prepare_adapters_cuda(const Exec& exec, std::span<const AdapterJob> jobs);

}  // namespace qat::kernels
