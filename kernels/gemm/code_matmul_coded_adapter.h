// The product of a layer with its adapter from x alone:
//
//   h[m,r] = a_scales[r] * float(sum_k x[m,k] * a[r,k]), rounded to bf16 on a GPU
//   y[m,n] = (row_scales[m] * col_scales[n]) * (float(sum_k x[m,k] * b[n,k]) + sum_r h[m,r] * t[n,r])  (+ bias[n])
//
// which code_matmul() and code_matmul_adapter() do one after the other; bits differ by the order of the sum over r.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/gemm/code_matmul_adapter.h"

namespace qat::kernels {

struct CodedAdapter {
  Matrix<const std::int8_t> a;      // [r, K]
  std::span<const float> a_scales;  // [r], or one for all
  ConstFloatMatrix t;               // [N, r], as in AdapterTerm
};

// Whether this device does both at once. On a GPU that is for few rows, of which a product takes less time than the
// enqueueing of two: those of a token a text. CPUs take all of fp32.
bool takes_coded_adapter(const Exec& exec, std::int64_t m, std::int64_t n, std::int64_t k, std::int64_t rank,
                         DType out);

// How many int32 of working memory the call takes.
std::int64_t coded_adapter_scratch(const Exec& exec, std::int64_t m, std::int64_t n, std::int64_t k, std::int64_t rank);

// x: [M, K], b: [N, K]; epilogue and y: as in code_matmul_adapter(). On a GPU codes begin at multiples of 16 bytes.
void code_matmul_coded_adapter(const Exec& exec, Matrix<const std::int8_t> x, Matrix<const std::int8_t> b,
                               const CodeMatmulEpilogue& epilogue, const CodedAdapter& adapter, FloatMatrix y,
                               std::span<std::int32_t> scratch);

}  // namespace qat::kernels
