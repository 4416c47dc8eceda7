// Inverted dropout (Srivastava et al., JMLR 15, 2014) with draws from the counter-based generator: the same elements
// are dropped on every device, on any number of ranks, after a resume, and in backward, so that no mask is stored.
//
//   y[i] = 0 if u[i] < p, else x[i] * (1 / (1 - p))      u[i] = uniform_at(key, i), i = row * cols + col
//
// Backward is the same function of the gradient.
#pragma once

#include "kernels/common/exec.h"
#include "kernels/common/philox.h"
#include "kernels/common/view.h"

namespace qat::kernels {

// x, y: [rows, cols], dense, one dtype (CPU: fp32; CUDA: fp32 or bf16); y may be x. 0 <= p < 1.
void dropout(const Exec& exec, ConstFloatMatrix x, float p, RngKey key, FloatMatrix y);

}  // namespace qat::kernels
