// The CPU half of prepare_adapters.h, the specification. Shapes are checked by prepare_adapters.cc.
#pragma once

#include <span>

#include "kernels/quant/prepare_adapters.h"

namespace qat::kernels {

void prepare_adapters_cpu(const Exec& exec, std::span<const AdapterJob> jobs);

}  // namespace qat::kernels
