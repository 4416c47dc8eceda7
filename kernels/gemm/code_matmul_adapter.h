// The integer GEMM with a low-rank term of floats added to its sums, for layers with an adapter:
//
//   y[m,n] = (row_scales[m] * col_scales[n]) * (float(sum_k a[m,k] * b[n,k]) + sum_r h[m,r] * t[n,r])  (+ bias[n])
//
// The term is inside the scales, so h and t come divided by them: the adapter's (x A^T) without the row scale, and its
// B over the column scale. The integer sums are exact; the term is added in fp32 in the matrix unit's order.
#pragma once

#include "kernels/gemm/code_matmul.h"

namespace qat::kernels {

constexpr std::int64_t kMaxAdapterRank = 64;

struct AdapterTerm {
  ConstFloatMatrix h;  // [M, r] (CPU: fp32; CUDA: bf16), dense
  ConstFloatMatrix t;  // [N, r]
};

// Whether this device has a kernel for the shape and the dtype of y. CPUs take all of fp32.
bool takes_adapter(const Exec& exec, std::int64_t n, std::int64_t k, std::int64_t rank, DType out);

// a, b, epilogue, y: as in code_matmul(); no `accumulate`; y is dense.
void code_matmul_adapter(const Exec& exec, Matrix<const std::int8_t> a, Matrix<const std::int8_t> b,
                         const CodeMatmulEpilogue& epilogue, const AdapterTerm& adapter, FloatMatrix y);

}  // namespace qat::kernels
