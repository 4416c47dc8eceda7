// Internal to kernels/gemm.
#pragma once

#include "kernels/gemm/code_matmul_coded_adapter.h"

namespace qat::kernels {

bool takes_coded_adapter_cuda(std::int64_t m, std::int64_t n, std::int64_t k, std::int64_t rank, DType out);
std::int64_t coded_adapter_scratch_cuda(std::int64_t m, std::int64_t n, std::int64_t k, std::int64_t rank);
void code_matmul_coded_adapter_cuda(const Exec& exec, Matrix<const std::int8_t> x, Matrix<const std::int8_t> b,
                                    const CodeMatmulEpilogue& epilogue, const CodedAdapter& adapter,
                                    const FloatMatrix& y, std::int32_t* scratch);

}  // namespace qat::kernels
