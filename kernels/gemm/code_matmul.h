// The integer GEMM of quantized training: exact int32 sums of int8 codes, scales applied once.
//
//   y[m,n] = (row_scales[m] * col_scales[n]) * float(sum_k a[m,k] * b[n,k])  (+ bias[n])
//
// a: [M, K]; b: [N, K] (both contiguous along the summed dimension, as tensor cores want them); y: [M, N].
// row_scales: [M] or [1]; col_scales: [N] or [1]; bias: [N] or empty.
// Codes must be in -127..127 (encode.h gives no others); K <= 131072, so that no sum leaves int32.
// `y` is overwritten, or added to if `accumulate`: y + (value + bias). The product of scales, the conversion, and each
// step after them are rounded in fp32 in the order written, and then once more if y is bf16; the integer sums are exact
// and therefore the same on every device. So is y, bit for bit.
//
// On a CPU y is fp32 without gaps; on a GPU it is fp32 or bf16 and its rows may have gaps. There, tensor cores multiply
// with K a multiple of 16, N and y's stride multiples of 8 and 16-byte aligned addresses best, and anything else
// correctly (matmul_plan.h); the first call of a shape times the tiles that fit and waits for the stream.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/common/exec.h"
#include "kernels/common/view.h"

namespace qat::kernels {

constexpr std::int64_t kMaxCodeDepth = 131072;  // 127 * 127 * 131072 < 2^31

struct CodeMatmulEpilogue {
  std::span<const float> row_scales;
  std::span<const float> col_scales;
  std::span<const float> bias;  // may be empty
  bool accumulate = false;
};

void code_matmul(const Exec& exec, Matrix<const std::int8_t> a, Matrix<const std::int8_t> b,
                 const CodeMatmulEpilogue& epilogue, const FloatMatrix& y);

// The bare sums: sums[m,n] = sum_k a[m,k] * b[n,k].
void code_matmul_sums(const Exec& exec, Matrix<const std::int8_t> a, Matrix<const std::int8_t> b,
                      Matrix<std::int32_t> sums);

}  // namespace qat::kernels
