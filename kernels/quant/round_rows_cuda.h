// The CUDA half of round_rows.h. The width is checked by round_rows.cc; x is device memory.
#pragma once

#include "kernels/quant/round_rows.h"

namespace qat::kernels {

void round_rows_cuda(const Exec& exec, Matrix<float> x, const EncodeOptions& options);

}  // namespace qat::kernels
