// Internal to kernels/gemm.
#pragma once

#include "kernels/gemm/code_matmul_adapter.h"
#include "kernels/gemm/code_matmul_sm90.h"

namespace qat::kernels {

bool takes_adapter_cuda(std::int64_t n, std::int64_t k, std::int64_t rank, DType out);
void code_matmul_adapter_cuda(const Exec& exec, Matrix<const std::int8_t> a, Matrix<const std::int8_t> b,
                              const CodeMatmulEpilogue& epilogue, const AdapterTerm& adapter, const FloatMatrix& y);
void matmul_adapter_sm90(const Exec& exec, const Sm90Call& call, const void* h, const void* b, int rank);

}  // namespace qat::kernels
