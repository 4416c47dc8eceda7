// The CUDA half of encode_batch.h. Shapes are checked by encode_batch.cc; every matrix and span is device memory.
#pragma once

#include <span>

#include "kernels/quant/encode_batch.h"

namespace qat::kernels {

void encode_rows_batch_cuda(const Exec& exec, std::span<const EncodeRowsJob> jobs);

}  // namespace qat::kernels
