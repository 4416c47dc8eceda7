// The CPU half of adapter_backward.h, the specification. Shapes are checked by adapter_backward.cc.
#pragma once

#include "kernels/gemm/adapter_backward.h"

namespace qat::kernels {

void adapter_backward_cpu(const Exec& exec, const GradientColumns& g, const AdapterBackwardOperands& operands,
                          const AdapterBackwardOptions& options, const AdapterGradients& out,
                          const AdapterColumns& columns);

}  // namespace qat::kernels
