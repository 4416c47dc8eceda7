// The CPU half of code_matmul.h. Shapes are checked by code_matmul.cc.
#pragma once

#include "kernels/common/cpu_isa.h"
#include "kernels/gemm/code_matmul.h"

namespace qat::kernels {

// What becomes of a finished sum: kept as it is (`sums`), or scaled into `y`. Exactly one has data.
struct CodeMatmulTarget {
  Matrix<std::int32_t> sums;
  Matrix<float> y;
  CodeMatmulEpilogue epilogue;
};

// kPortable is the specification (one dot product after the other); kAvx2 gives the same bits.
void code_matmul_cpu(const Exec& exec, Matrix<const std::int8_t> a, Matrix<const std::int8_t> b,
                     const CodeMatmulTarget& target, CpuIsa isa);

constexpr std::int64_t kSumPiece = 16;

// Rows [row, row + rows) and columns [col, col + cols) of the output, cols <= kSumPiece.
struct SumBlock {
  std::int64_t row;
  std::int64_t col;
  std::int64_t rows;
  std::int64_t cols;
};

// Writes finished sums to the target.   sums: [block.rows, kSumPiece], of which the first block.cols count.
void finish_sums(const CodeMatmulTarget& target, const SumBlock& block, const std::int32_t* sums, CpuIsa isa);

void code_matmul_avx2(const Exec& exec, Matrix<const std::int8_t> a, Matrix<const std::int8_t> b,
                      const CodeMatmulTarget& target);

}  // namespace qat::kernels
